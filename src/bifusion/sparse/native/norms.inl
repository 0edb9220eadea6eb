// BatchNorm over the rows of a matrix, with a residual and ReLU in the same pass over memory. Included
// by a translation unit per instruction set before kernels.inl; the compiler vectorises the loops over
// channels.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace bifusion::BIFUSION_ISA {
namespace {

// Rows summed at once in `Real`, few enough to stay in the first cache while they are read twice, and
// rows of a part, whose sums in double follow each other in one thread. Neither depends on the threads.
inline int64_t rows_at_once(int64_t channels) { return std::clamp<int64_t>(4096 / channels, 8, 128); }
constexpr int64_t PART_ROWS = 2048;
inline int64_t parts_of(int64_t rows) { return (rows + PART_ROWS - 1) / PART_ROWS; }

// Calls run(part, first row, rows) for every stretch of rows summed at once, a part's one after another.
template <typename Run>
void for_stretches(int64_t rows, int64_t channels, int threads, const Run& run) {
    const int64_t step = rows_at_once(channels);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < parts_of(rows); ++part) {
        const int64_t end = std::min(rows, (part + 1) * PART_ROWS);
        for (int64_t first = part * PART_ROWS; first < end; first += step)
            run(part, first, std::min(step, end - first));
    }
}

// sums[c] += value(r, c) over the rows, four at a time.
template <typename Real, typename Value>
inline void sum_rows(int64_t rows, int64_t channels, Real* __restrict sums, const Value& value) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c)
            sums[c] += (value(r, c) + value(r + 1, c)) + (value(r + 2, c) + value(r + 3, c));
    for (; r < rows; ++r)
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) sums[c] += value(r, c);
}

// Mean and squared deviations of `rows` rows, merged into those of `before` rows (Chan, Golub, LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances", 1979).
inline void merge(double* mean, double* squares, int64_t before, const double* other_mean, const double* other_squares,
                  int64_t rows, int64_t channels) {
    const double share = (double)rows / (before + rows), weight = before * share;
    for (int64_t c = 0; c < channels; ++c) {
        const double apart = other_mean[c] - mean[c];
        mean[c] += apart * share;
        squares[c] += other_squares[c] + apart * apart * weight;
    }
}

template <typename Real>
void moments(const Real* x, int64_t rows, int64_t channels, double* mean, double* squares, int threads) {
    const int64_t parts = parts_of(rows);
    std::vector<double> part_mean(parts * channels, 0.0), part_squares(parts * channels, 0.0);
    for_stretches(rows, channels, threads, [&](int64_t part, int64_t first, int64_t count) {
        static thread_local std::vector<Real> scratch;
        static thread_local std::vector<double> wide;
        scratch.assign(3 * channels, Real(0));
        wide.resize(2 * channels);
        Real *near = scratch.data(), *off = near + channels, *square = off + channels;
        const Real* own = x + first * channels;
        sum_rows(count, channels, near, [&](int64_t r, int64_t c) { return own[r * channels + c]; });
        for (int64_t c = 0; c < channels; ++c) near[c] /= (Real)count;
        // around a mean that is right but for rounding: what it is off by is summed, and put right
        sum_rows(count, channels, off, [&](int64_t r, int64_t c) { return own[r * channels + c] - near[c]; });
        sum_rows(count, channels, square, [&](int64_t r, int64_t c) {
            const Real apart = own[r * channels + c] - near[c];
            return apart * apart;
        });
        for (int64_t c = 0; c < channels; ++c) {
            const double rest = (double)off[c] / count;
            wide[c] = near[c] + rest;
            wide[channels + c] = square[c] - rest * off[c];
        }
        merge(part_mean.data() + part * channels, part_squares.data() + part * channels, first - part * PART_ROWS,
              wide.data(), wide.data() + channels, count, channels);
    });
    std::fill_n(mean, channels, 0.0);
    std::fill_n(squares, channels, 0.0);
    for (int64_t part = 0; part < parts; ++part)
        merge(mean, squares, part * PART_ROWS, part_mean.data() + part * channels,
              part_squares.data() + part * channels, std::min(PART_ROWS, rows - part * PART_ROWS), channels);
}

// NaN passes both ways, as in torch's.
template <typename Real>
inline Real rectified(Real value, bool relu) {
    return relu && value < 0 ? Real(0) : value;
}

template <typename Real, bool Relu, bool Residual>
void normalise_rows(const Real* __restrict x, int64_t rows, int64_t channels, const Norm<Real>& norm,
                    const Real* __restrict residual, Real* __restrict out, int threads) {
    const Real *__restrict mean = norm.mean, *__restrict scale = norm.scale, *__restrict shift = norm.shift;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = r * channels;
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) {
            Real value = (x[row + c] - mean[c]) * scale[c] + shift[c];
            if constexpr (Residual) value += residual[row + c];
            out[row + c] = rectified(value, Relu);
        }
    }
}

template <typename Real>
void normalise(const Real* x, int64_t rows, int64_t channels, const Norm<Real>& norm, const Real* residual, bool relu,
               Real* out, int threads) {
    const auto run = relu ? (residual ? normalise_rows<Real, true, true> : normalise_rows<Real, true, false>)
                          : (residual ? normalise_rows<Real, false, true> : normalise_rows<Real, false, false>);
    run(x, rows, channels, norm, residual, out, threads);
}

// Where ReLU's decisions are found: nowhere as there is none, in x again, or in what came out.
enum class Gate { open, in_x, in_out };

// passed = what of `grad` reaches the normalised value, in one row.
template <typename Real, Gate G>
inline void gate_row(const Real* __restrict grad, const Real* __restrict x, const Real* __restrict out,
                     const Norm<Real>& norm, int64_t channels, Real* __restrict passed) {
    const Real *__restrict mean = norm.mean, *__restrict scale = norm.scale, *__restrict shift = norm.shift;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
        const Real value = G == Gate::in_out ? out[c] : (x[c] - mean[c]) * scale[c] + shift[c];
        const Real g = grad[c];  // read whatever comes of it: a load under a condition is no vector's
        passed[c] = G != Gate::open && value <= 0 ? Real(0) : g;
    }
}

// sums: of what is passed, and of that times x - mean.
template <typename Real, Gate G>
void sum_gradients(const Real* x, int64_t rows, int64_t channels, const Norm<Real>& norm, const Real* grad,
                   const Real* out, Real* passed, double* sums, int threads) {
    const int64_t parts = parts_of(rows);
    std::vector<double> part_sums(parts * 2 * channels, 0.0);
    for_stretches(rows, channels, threads, [&](int64_t part, int64_t first, int64_t count) {
        static thread_local std::vector<Real> scratch;
        scratch.assign(3 * channels, Real(0));
        Real *__restrict plain = scratch.data(), *__restrict along = plain + channels, *own = along + channels;
        const Real* __restrict mean = norm.mean;
        for (int64_t r = first; r < first + count; ++r) {
            const int64_t row = r * channels;
            Real* gated = passed ? passed + row : own;
            gate_row<Real, G>(grad + row, x + row, out ? out + row : nullptr, norm, channels, gated);
            const Real *__restrict g = gated, *__restrict here = x + row;
#pragma GCC ivdep
            for (int64_t c = 0; c < channels; ++c) {
                plain[c] += g[c];
                along[c] += g[c] * (here[c] - mean[c]);
            }
        }
        double* total = part_sums.data() + part * 2 * channels;
        for (int64_t c = 0; c < 2 * channels; ++c) total[c] += scratch[c];
    });
    std::fill_n(sums, 2 * channels, 0.0);
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += part_sums[part * 2 * channels + c];
}

template <typename Real, Gate G>
void norm_gradient_of(const Real* x, int64_t rows, int64_t channels, const Norm<Real>& norm, const Real* inverse_std,
                      const Real* grad, const Real* out, Real* passed, Real* x_grad, double* sums, int threads) {
    sum_gradients<Real, G>(x, rows, channels, norm, grad, out, passed, sums, threads);
    std::vector<Real> along(channels), plain(channels);
    for (int64_t c = 0; c < channels; ++c) {
        along[c] = (Real)(-sums[channels + c] / rows * inverse_std[c] * inverse_std[c]);
        plain[c] = (Real)(sums[c] / rows);
        sums[channels + c] *= inverse_std[c];
    }
    const Real *__restrict slope = along.data(), *__restrict level = plain.data();
    const Real *__restrict mean = norm.mean, *__restrict scale = norm.scale;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = r * channels;
        Real* __restrict to = x_grad + row;
        const Real* __restrict here = x + row;
        const Real* g = passed ? passed + row : to;
        if (!passed) gate_row<Real, G>(grad + row, here, out ? out + row : nullptr, norm, channels, to);
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) to[c] = scale[c] * (g[c] - level[c] + (here[c] - mean[c]) * slope[c]);
    }
}

template <typename Real>
void norm_gradient(const Real* x, int64_t rows, int64_t channels, const Norm<Real>& norm, const Real* inverse_std,
                   const Real* grad, const Real* out, bool relu, Real* passed, Real* x_grad, double* sums,
                   int threads) {
    const auto run = !relu ? norm_gradient_of<Real, Gate::open>
                           : (out ? norm_gradient_of<Real, Gate::in_out> : norm_gradient_of<Real, Gate::in_x>);
    run(x, rows, channels, norm, inverse_std, grad, out, passed, x_grad, sums, threads);
}

}  // namespace
}  // namespace bifusion::BIFUSION_ISA
