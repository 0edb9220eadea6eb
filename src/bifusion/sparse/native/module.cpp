// Python binding. Arrays come in as row-major CPU arrays (torch tensors through DLPack, detached by the
// caller) and are never converted: a copy of an output would lose the result. The GIL is released while
// computing.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <malloc.h>
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_map.h"
#include "kernels.h"
#include "processor.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace bifusion;

template <typename T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T, int N>
using Maybe = std::optional<Array<T, N>>;

namespace {

InstructionSet in_use = supported_sets().front();

void use_isa(const std::string& name) {
    std::string known;
    for (const InstructionSet& set : supported_sets()) {
        if (name == set.name) {
            in_use = set;
            return;
        }
        known += std::string(known.empty() ? "" : ", ") + set.name;
    }
    throw std::invalid_argument("instruction set '" + name + "': expected one that this processor has: " + known);
}

template <typename Real>
const Kernels<Real>& kernels() {
    if constexpr (sizeof(Real) == 4)
        return *in_use.single_precision;
    else
        return *in_use.double_precision;
}

// OpenMP's threads do not survive a fork, and a child that asks for them hangs: it computes alone.
const pid_t loaded_in = getpid();
int team(int threads) { return getpid() == loaded_in ? std::max(1, threads) : 1; }

void check(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

// Pair lists owned by C++, handed to Python as an object that only these functions read.
struct PairPlan {
    PairLists lists;
    int64_t offsets, in_rows, out_rows, block_rows;
    Plan view() const {
        const int64_t blocks = (lists.start.size() - 1) / offsets;
        return {lists.pair_in.data(), lists.pair_out.data(), lists.start.data(), offsets, out_rows, block_rows, blocks};
    }
};

PairPlan* make_plan(Array<const int32_t, 2> neighbours, int64_t in_rows, int64_t block_rows, int threads) {
    const int64_t rows = neighbours.shape(0), offsets = neighbours.shape(1), entries = rows * offsets;
    check(offsets > 0 && block_rows > 0, "a plan needs at least one offset and one row in a block");
    nb::gil_scoped_release release;
    const int32_t* table = neighbours.data();
    int32_t low = -1, high = -1;
    for (int64_t i = 0; i < entries; ++i) {
        low = std::min(low, table[i]);
        high = std::max(high, table[i]);
    }
    check(low >= -1 && high < in_rows, "neighbours: a row that the input does not have");
    return new PairPlan{list_pairs(table, rows, offsets, block_rows, team(threads)), offsets, in_rows, rows, block_rows};
}

template <typename A>
auto data_of(const std::optional<A>& array) {
    return array ? array->data() : nullptr;
}

template <typename A, typename B>
void check_like(const A& array, const B& other, const char* what) {
    check(array.shape(0) == other.shape(0) && array.shape(1) == other.shape(1), what);
}

template <typename Real>
void convolve(const PairPlan& plan, Array<const Real, 2> in, Array<const Real, 3> weight, Array<Real, 2> out,
              int threads, Maybe<const Real, 1> bias, Maybe<const Real, 2> residual, bool relu) {
    check((int64_t)in.shape(0) == plan.in_rows, "in: not as many rows as the plan has inputs");
    check((int64_t)weight.shape(0) == plan.offsets, "weight: not as many offsets as the plan has");
    check(in.shape(1) == weight.shape(1) && out.shape(1) == weight.shape(2), "channels of in, weight, out differ");
    check((int64_t)out.shape(0) == plan.out_rows, "out: not as many rows as the plan has outputs");
    check(weight.shape(2) % kernels<Real>().lanes == 0, "weight: columns must be a multiple of the lanes");
    check(!bias || bias->shape(0) == out.shape(1), "bias: not as many numbers as out has columns");
    if (residual) check_like(*residual, out, "residual: another shape than out");
    nb::gil_scoped_release release;
    kernels<Real>().convolve(plan.view(), in.data(), in.shape(1), weight.data(), weight.shape(2),
                             {data_of(bias), data_of(residual), relu}, out.data(), team(threads));
}

// Whether the set in use computes in bfloat16, and the system lets it.
bool computes_bfloat16() {
    return in_use.convolve_bfloat16 && (!in_use.needs_tiles || may_use_tiles());
}

// weight: the bits of bfloat16, laid out as kernels.h says.
void convolve_bfloat16(const PairPlan& plan, Array<const float, 2> in, Array<const int16_t, 5> weight,
                       Array<float, 2> out, int threads, Maybe<const float, 1> bias, Maybe<const float, 2> residual,
                       bool relu) {
    const int64_t cin = in.shape(1), cout = out.shape(1);
    check(computes_bfloat16(), "bfloat16: the instruction set in use does not compute in it");
    check((int64_t)in.shape(0) == plan.in_rows, "in: not as many rows as the plan has inputs");
    check((int64_t)out.shape(0) == plan.out_rows, "out: not as many rows as the plan has outputs");
    check((int64_t)weight.shape(0) == plan.offsets && (int64_t)weight.shape(1) == (cout + 15) / 16 &&
              (int64_t)weight.shape(2) == (cin + 31) / 32 * 16 && weight.shape(3) == 16 && weight.shape(4) == 2,
          "weight: not packed for these offsets and channels");
    check((uintptr_t)weight.data() % 64 == 0, "weight: does not begin at a cache line");
    check(!bias || bias->shape(0) == out.shape(1), "bias: not as many numbers as out has columns");
    if (residual) check_like(*residual, out, "residual: another shape than out");
    nb::gil_scoped_release release;
    in_use.convolve_bfloat16(plan.view(), in.data(), cin, reinterpret_cast<const uint16_t*>(weight.data()), cout,
                             {data_of(bias), data_of(residual), relu}, out.data(), team(threads));
}

template <typename Real>
void weight_gradient(const PairPlan& plan, Array<const Real, 2> in, Array<const Real, 2> out_grad,
                     Array<Real, 3> gradient, int threads) {
    check((int64_t)in.shape(0) == plan.in_rows, "in: not as many rows as the plan has inputs");
    check((int64_t)out_grad.shape(0) == plan.out_rows, "out_grad: not as many rows as the plan has outputs");
    check((int64_t)gradient.shape(0) == plan.offsets, "gradient: not as many offsets as the plan has");
    check(in.shape(1) == gradient.shape(1) && out_grad.shape(1) == gradient.shape(2),
          "channels of in, out_grad, gradient differ");
    check(out_grad.shape(1) % kernels<Real>().lanes == 0, "out_grad: columns must be a multiple of the lanes");
    nb::gil_scoped_release release;
    kernels<Real>().weight_gradient(plan.view(), in.data(), in.shape(1), out_grad.data(), out_grad.shape(1),
                                    gradient.data(), team(threads));
}

// out[k] = weight[k]^T, or that of the offset across the centre.
template <typename Real>
void turn_weight(Array<const Real, 3> weight, bool mirrored, Array<Real, 3> out, int threads) {
    const int64_t offsets = weight.shape(0), rows = weight.shape(1), columns = weight.shape(2);
    check((int64_t)out.shape(0) == offsets && (int64_t)out.shape(1) == columns && (int64_t)out.shape(2) == rows,
          "out: expected the weight's shape turned");
    nb::gil_scoped_release release;
    constexpr int64_t STEP = 16;  // rows and columns of a piece that stays in cache
#pragma omp parallel for num_threads(team(threads)) schedule(static)
    for (int64_t offset = 0; offset < offsets; ++offset) {
        const Real* from = weight.data() + (mirrored ? offsets - 1 - offset : offset) * rows * columns;
        Real* to = out.data() + offset * rows * columns;
        for (int64_t row = 0; row < rows; row += STEP)
            for (int64_t column = 0; column < columns; column += STEP)
                for (int64_t c = column; c < std::min(columns, column + STEP); ++c)
                    for (int64_t r = row; r < std::min(rows, row + STEP); ++r)
                        to[c * rows + r] = from[r * columns + c];
    }
}

template <typename Real>
void moments(Array<const Real, 2> x, Array<double, 1> mean, Array<double, 1> squares, int threads) {
    check(mean.shape(0) == x.shape(1) && squares.shape(0) == x.shape(1), "mean, squares: expected a number a channel");
    nb::gil_scoped_release release;
    kernels<Real>().moments(x.data(), x.shape(0), x.shape(1), mean.data(), squares.data(), team(threads));
}

template <typename Real>
Norm<Real> norm_of(const Array<const Real, 2>& norm, int64_t channels) {
    check(norm.shape(0) >= 3 && (int64_t)norm.shape(1) == channels, "norm: expected mean, scale, shift of each channel");
    return {norm.data(), norm.data() + channels, norm.data() + 2 * channels};
}

template <typename Real>
void normalise(Array<const Real, 2> x, Array<const Real, 2> norm, Maybe<const Real, 2> residual, bool relu,
               Array<Real, 2> out, int threads) {
    check_like(x, out, "out: another shape than x");
    if (residual) check_like(*residual, x, "residual: another shape than x");
    const Norm<Real> of = norm_of(norm, x.shape(1));
    nb::gil_scoped_release release;
    kernels<Real>().normalise(x.data(), x.shape(0), x.shape(1), of, data_of(residual), relu, out.data(), team(threads));
}

template <typename Real>
void norm_gradient(Array<const Real, 2> x, Array<const Real, 2> norm, Array<const Real, 2> grad,
                   Maybe<const Real, 2> out, bool relu, Maybe<Real, 2> passed, Array<Real, 2> x_grad,
                   Array<double, 2> sums, int threads) {
    check_like(x, grad, "grad: another shape than x");
    check_like(x, x_grad, "x_grad: another shape than x");
    if (out) check_like(*out, x, "out: another shape than x");
    if (passed) check_like(*passed, x, "passed: another shape than x");
    check(x.shape(0) > 0, "x: expected at least a row");
    check(sums.shape(0) == 2 && sums.shape(1) == x.shape(1), "sums: expected two numbers a channel");
    check(norm.shape(0) == 4, "norm: expected mean, scale, shift, inverse deviation of each channel");
    const Norm<Real> of = norm_of(norm, x.shape(1));
    nb::gil_scoped_release release;
    kernels<Real>().norm_gradient(x.data(), x.shape(0), x.shape(1), of, norm.data() + 3 * x.shape(1), grad.data(),
                                  data_of(out), relu, data_of(passed), x_grad.data(), sums.data(), team(threads));
}

// Multiply-adds a second of float32 on `threads` threads, on numbers that never leave the registers.
double peak_rate(int64_t rounds, int threads) {
    nb::gil_scoped_release release;
    threads = team(threads);
    int64_t total = 0;
    const auto began = std::chrono::steady_clock::now();
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) total += kernels<float>().multiply_adds(rounds);
    return total / std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

// Arrays above 32 MB come from the heap too and stay in it when they are freed, up to 2 GB at its end: the
// C library otherwise maps and unmaps each, and the first touch of a page costs as much as using it. The
// system is asked to make these 2 GB, of which nothing is taken before it is used, of large pages. False
// where the C library is another.
bool keep_freed_memory() {
#if defined(__GLIBC__)
    constexpr int KEPT = std::numeric_limits<int>::max();
    if (!mallopt(M_MMAP_MAX, 0) || !mallopt(M_TRIM_THRESHOLD, KEPT)) return false;
    constexpr uintptr_t LARGE_PAGE = 1 << 21;
    if (void* end = std::malloc(KEPT - LARGE_PAGE)) {
        const uintptr_t first = ((uintptr_t)end + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
        madvise((void*)first, KEPT / LARGE_PAGE * LARGE_PAGE - 2 * LARGE_PAGE, MADV_HUGEPAGE);
        std::free(end);
    }
    return true;
#else
    return false;
#endif
}

void check_coordinates(Array<const int32_t, 2> coords) { check(coords.shape(1) == 4, "coords: expected (M, 4)"); }

void find_neighbours(const VoxelIndex& index, Array<const int32_t, 2> out, int kernel_size, int stride,
                     Array<int32_t, 2> table, int threads) {
    check_coordinates(out);
    check(kernel_size > 0 && stride > 0, "kernel_size and stride: expected at least 1");
    check(table.shape(0) == out.shape(0) && (int64_t)table.shape(1) == (int64_t)kernel_size * kernel_size * kernel_size,
          "table: expected (out rows, kernel_size^3)");
    nb::gil_scoped_release release;
    index.find_neighbours(out.data(), out.shape(0), kernel_size, stride, table.data(), team(threads));
}

template <typename Real>
void define_kernels(nb::module_& m) {
    m.def("convolve", &convolve<Real>, "plan"_a, "in_"_a.noconvert(), "weight"_a.noconvert(), "out"_a.noconvert(),
          "threads"_a, "bias"_a.noconvert() = nb::none(), "residual"_a.noconvert() = nb::none(), "relu"_a = false);
    m.def("weight_gradient", &weight_gradient<Real>, "plan"_a, "in_"_a.noconvert(), "out_grad"_a.noconvert(),
          "gradient"_a.noconvert(), "threads"_a);
    m.def("turn_weight", &turn_weight<Real>, "weight"_a.noconvert(), "mirrored"_a, "out"_a.noconvert(), "threads"_a);
    m.def("moments", &moments<Real>, "x"_a.noconvert(), "mean"_a.noconvert(), "squares"_a.noconvert(), "threads"_a);
    m.def("normalise", &normalise<Real>, "x"_a.noconvert(), "norm"_a.noconvert(), "residual"_a.noconvert().none(),
          "relu"_a, "out"_a.noconvert(), "threads"_a);
    m.def("norm_gradient", &norm_gradient<Real>, "x"_a.noconvert(), "norm"_a.noconvert(), "grad"_a.noconvert(),
          "out"_a.noconvert().none(), "relu"_a, "passed"_a.noconvert().none(), "x_grad"_a.noconvert(),
          "sums"_a.noconvert(), "threads"_a);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // plans live in kernel maps, which may outlive the module at exit
    m.def("use_isa", &use_isa, "name"_a);
    m.def("isa", [] { return in_use.name; });
    m.def("supported_isas", [] {
        std::vector<std::string> names;
        for (const InstructionSet& set : supported_sets()) names.push_back(set.name);
        return names;
    });
    m.def("keep_freed_memory", &keep_freed_memory);
    m.def("peak_rate", &peak_rate, "rounds"_a, "threads"_a);
    m.def("lanes", [](bool single) { return single ? kernels<float>().lanes : kernels<double>().lanes; }, "single"_a);

    nb::class_<PairPlan>(m, "PairPlan").def_prop_ro("pairs", [](const PairPlan& p) { return p.lists.pair_in.size(); });
    m.def("make_plan", &make_plan, nb::rv_policy::take_ownership, "neighbors"_a.noconvert(), "in_rows"_a,
          "block_rows"_a, "threads"_a);
    define_kernels<float>(m);
    define_kernels<double>(m);

    m.def("computes_bfloat16", &computes_bfloat16);
    m.def("convolve_bfloat16", &convolve_bfloat16, "plan"_a, "in_"_a.noconvert(), "weight"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a, "bias"_a.noconvert().none(), "residual"_a.noconvert().none(), "relu"_a);

    nb::class_<VoxelIndex>(m, "VoxelIndex")
        .def("__init__",
             [](VoxelIndex* self, Array<const int32_t, 2> coords) {
                 check_coordinates(coords);
                 nb::gil_scoped_release release;
                 new (self) VoxelIndex(coords.data(), coords.shape(0));
             },
             "coords"_a.noconvert())
        .def_prop_ro("distinct", &VoxelIndex::distinct);
    m.def("find_neighbours", &find_neighbours, "index"_a, "out_coords"_a.noconvert(), "kernel_size"_a, "stride"_a,
          "table"_a.noconvert(), "threads"_a);
}
