// Holds the engine's kernels of one instruction set, -DCHECKED=NAME, against plain loops in double, without
// Python: so that they can be run on a processor that is emulated. Prints "case error" a line, the largest
// difference over the largest value.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernel_map.h"
#include "kernels.h"

using namespace bifusion;
using Doubles = std::vector<double>;

std::mt19937 source(0);

template <typename Real>
std::vector<Real> random_numbers(int64_t count) {
    std::normal_distribution<double> normal;
    std::vector<Real> numbers(count);
    for (Real& number : numbers) number = (Real)normal(source);
    return numbers;
}

template <typename Real>
void report(const std::string& name, const std::vector<Real>& found, const Doubles& expected) {
    double apart = found.size() == expected.size() ? 0 : INFINITY, largest = 1e-30;
    for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
        const double difference = std::abs((double)found[i] - expected[i]);
        apart = std::isnan(difference) ? INFINITY : std::max(apart, difference);
        largest = std::max(largest, std::abs(expected[i]));
    }
    std::printf("%s %.3g\n", name.c_str(), apart / largest);
}

// Distinct voxels of two scenes, in no order.
std::vector<Key> voxels(int32_t side) {
    std::vector<Key> found;
    std::bernoulli_distribution occupied(0.4);
    for (int32_t scene = 0; scene < 2; ++scene)
        for (int32_t place = 0; place < side * side * side; ++place)
            if (occupied(source))
                found.push_back({scene, place / (side * side) - 3, place / side % side - 3, place % side - 3});
    std::shuffle(found.begin(), found.end(), source);
    return found;
}

struct Map {
    std::vector<int32_t> table;
    int64_t rows, offsets;
};

Map neighbours(const std::vector<Key>& coords, const std::string& type, int32_t size, int threads) {
    const int64_t rows = coords.size(), offsets = size * size * size;
    Map map{std::vector<int32_t>(rows * offsets, -2), rows, offsets};
    VoxelIndex(coords[0].data(), rows).find_neighbours(coords[0].data(), rows, size, 1, map.table.data(), threads);
    Doubles expected(rows * offsets, -1);
    const int32_t low = size % 2 ? -(size / 2) : 0;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < offsets; ++k) {
            Key wanted = coords[row];
            wanted[1] += low + (int32_t)(k / (size * size));
            wanted[2] += low + (int32_t)(k / size % size);
            wanted[3] += low + (int32_t)(k % size);
            const auto place = std::find(coords.begin(), coords.end(), wanted);
            if (place != coords.end()) expected[row * offsets + k] = (double)(place - coords.begin());
        }
    report("map of " + type + ", kernel " + std::to_string(size), map.table, expected);
    return map;
}

template <typename Real>
void check_convolution(const Kernels<Real>& kernels, const std::string& type, const Map& map, int64_t cin, int64_t cout,
                       int threads) {
    const std::string name = type + " " + std::to_string(map.offsets) + " offsets, " + std::to_string(cin) + " to " +
                             std::to_string(cout);
    const PairLists lists = list_pairs(map.table.data(), map.rows, map.offsets, 32, threads);
    const int64_t blocks = (lists.start.size() - 1) / map.offsets;
    const Plan plan{lists.pair_in.data(), lists.pair_out.data(), lists.start.data(), map.offsets, map.rows, 32, blocks};
    const auto in = random_numbers<Real>(map.rows * cin), weight = random_numbers<Real>(map.offsets * cin * cout);
    const auto grad = random_numbers<Real>(map.rows * cout), bias = random_numbers<Real>(cout);
    Doubles sums(map.rows * cout, 0), weight_grad(map.offsets * cin * cout, 0);
    for (int64_t row = 0; row < map.rows; ++row)
        for (int64_t k = 0; k < map.offsets; ++k) {
            const int64_t met = map.table[row * map.offsets + k];
            if (met < 0) continue;
            for (int64_t i = 0; i < cin; ++i)
                for (int64_t o = 0; o < cout; ++o) {
                    const int64_t w = (k * cin + i) * cout + o;
                    sums[row * cout + o] += (double)in[met * cin + i] * weight[w];
                    weight_grad[w] += (double)in[met * cin + i] * grad[row * cout + o];
                }
        }
    std::vector<Real> out(map.rows * cout, (Real)NAN);
    kernels.convolve(plan, in.data(), cin, weight.data(), cout, {nullptr, nullptr, false}, out.data(), threads);
    report("convolve " + name, out, sums);
    kernels.convolve(plan, in.data(), cin, weight.data(), cout, {bias.data(), grad.data(), true}, out.data(), threads);
    for (int64_t i = 0; i < map.rows * cout; ++i) sums[i] = std::max(0.0, sums[i] + bias[i % cout] + grad[i]);
    report("finished " + name, out, sums);
    std::vector<Real> found_grad(map.offsets * cin * cout, 0);
    kernels.weight_gradient(plan, in.data(), cin, grad.data(), cout, found_grad.data(), threads);
    report("weight_gradient " + name, found_grad, weight_grad);
}

template <typename Real>
void check_norm(const Kernels<Real>& kernels, const std::string& type, int64_t rows, int64_t channels, bool relu,
                bool with_residual, int threads) {
    const std::string name = type + " " + std::to_string(rows) + "x" + std::to_string(channels) +
                             (relu ? " relu" : "") + (with_residual ? " residual" : "");
    auto x = random_numbers<Real>(rows * channels);
    for (int64_t i = 0; i < rows * channels; ++i) x[i] += (Real)(i % channels);
    const auto residual = random_numbers<Real>(rows * channels), grad = random_numbers<Real>(rows * channels);
    const auto scale = random_numbers<Real>(channels), shift = random_numbers<Real>(channels);
    Doubles mean(channels, 0), squares(channels, 0), found_mean(channels), found_squares(channels);
    for (int64_t i = 0; i < rows * channels; ++i) mean[i % channels] += (double)x[i] / rows;
    for (int64_t i = 0; i < rows * channels; ++i) squares[i % channels] += std::pow(x[i] - mean[i % channels], 2);
    kernels.moments(x.data(), rows, channels, found_mean.data(), found_squares.data(), threads);
    report("mean " + name, found_mean, mean);
    report("squares " + name, found_squares, squares);

    std::vector<Real> centre(channels), inverse_std(channels), factor(channels);
    for (int64_t c = 0; c < channels; ++c) {
        centre[c] = (Real)mean[c];
        inverse_std[c] = (Real)(1 / std::sqrt(squares[c] / rows + 1e-5));
        factor[c] = scale[c] * inverse_std[c];
    }
    const Norm<Real> norm{centre.data(), factor.data(), shift.data()};
    std::vector<Real> out(rows * channels), passed(rows * channels), x_grad(rows * channels);
    Doubles expected(rows * channels), reached(rows * channels), sums(2 * channels, 0), along(channels, 0);
    for (int64_t i = 0; i < rows * channels; ++i) {
        const int64_t c = i % channels;
        const double away = x[i] - mean[c];
        double value = away * factor[c] + shift[c] + (with_residual ? residual[i] : 0);
        reached[i] = relu && value <= 0 ? 0 : grad[i];
        expected[i] = relu ? std::max(0.0, value) : value;
        sums[c] += reached[i];
        sums[channels + c] += reached[i] * away * inverse_std[c];
    }
    kernels.normalise(x.data(), rows, channels, norm, with_residual ? residual.data() : nullptr, relu, out.data(),
                      threads);
    report("normalise " + name, out, expected);
    Doubles found_sums(2 * channels);
    kernels.norm_gradient(x.data(), rows, channels, norm, inverse_std.data(), grad.data(), relu ? out.data() : nullptr,
                          relu, passed.data(), x_grad.data(), found_sums.data(), threads);
    for (int64_t i = 0; i < rows * channels; ++i) {
        const int64_t c = i % channels;
        const double away = (x[i] - mean[c]) * inverse_std[c];
        expected[i] = factor[c] * (reached[i] - sums[c] / rows - away * sums[channels + c] / rows);
    }
    report("norm_gradient " + name, x_grad, expected);
    report("norm_sums " + name, found_sums, sums);
    report("passed " + name, passed, reached);
}

template <typename Real>
void check(const Kernels<Real>& kernels, const std::string& type) {
    const int threads = 2;
    const auto coords = voxels(7);
    for (int32_t size : {2, 3}) {
        const Map map = neighbours(coords, type, size, threads);
        for (int64_t cin : {3, 16, 33})
            for (int64_t runs : {1, 2, 5, 6, 7, 13})
                check_convolution(kernels, type, map, cin, runs * kernels.lanes, threads);
    }
    for (int64_t rows : {1, 37, 5000})
        for (int64_t channels : {5, 32})
            for (int flags = 0; flags < 4; ++flags)
                check_norm(kernels, type, rows, channels, flags & 1, flags & 2, threads);
    const int64_t made = kernels.multiply_adds(1000);
    report("multiply_adds " + type, std::vector<double>{(double)(made % (1000 * kernels.lanes))}, {0.0});
}

int main() {
    check(CHECKED::single_precision, "float32");
    check(CHECKED::double_precision, "float64");
}
