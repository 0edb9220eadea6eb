// The kernels themselves. Included once by a translation unit per instruction set, which defines
// BIFUSION_ISA (the namespace), VECTOR_BYTES and MAX_SUMS (vector registers to hold sums in) and is
// compiled with that set's flags. Only vector extensions of GCC and Clang are used, no intrinsics.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "shares.h"

namespace bifusion::BIFUSION_ISA {
namespace {

template <typename Real>
struct Lanes {
    static constexpr int count = VECTOR_BYTES / sizeof(Real);
    typedef Real vector __attribute__((vector_size(VECTOR_BYTES)));
    typedef Real unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(Real)), may_alias));
    static inline vector load(const Real* p) { return *reinterpret_cast<const unaligned*>(p); }
    static inline void store(Real* p, vector v) { *reinterpret_cast<unaligned*>(p) = v; }
};

// Widest run of columns whose sums and weights fit the registers, and the rows that go with a run.
constexpr int MAX_COLUMNS = MAX_SUMS >= 24 ? 6 : 3;
constexpr int rows_for(int columns) { return std::min(12, MAX_SUMS / columns); }

// c[r][0 .. V lanes) += a[r][0 .. depth) * b, R rows at once with all sums in registers.
template <typename Real, int R, int V>
inline void add_product(const Real* const* a, const Real* b, int64_t b_stride, Real* const* c, int64_t depth) {
    using L = Lanes<Real>;
    typename L::vector sum[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) sum[r][v] = L::load(c[r] + v * L::count);
    for (int64_t i = 0; i < depth; ++i) {
        typename L::vector weight[V];
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) weight[v] = L::load(b + i * b_stride + v * L::count);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Real x = a[r][i];
#pragma GCC unroll 6
            for (int v = 0; v < V; ++v) sum[r][v] += x * weight[v];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) L::store(c[r] + v * L::count, sum[r][v]);
}

// w[r][0 .. V lanes) += sum over pairs p of a[p][r] * g[p], R rows of w at once.
template <typename Real, int R, int V>
inline void add_outer(const Real* const* a, int64_t row, const Real* const* g, int64_t col, Real* w, int64_t w_stride,
                      int64_t pairs) {
    using L = Lanes<Real>;
    typename L::vector sum[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) sum[r][v] = L::load(w + r * w_stride + v * L::count);
    for (int64_t p = 0; p < pairs; ++p) {
        const Real* x = a[p] + row;
        typename L::vector grad[V];
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) grad[v] = L::load(g[p] + col + v * L::count);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
            for (int v = 0; v < V; ++v) sum[r][v] += x[r] * grad[v];
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < V; ++v) L::store(w + r * w_stride + v * L::count, sum[r][v]);
}

// Asks for a short row, which lies anywhere, ahead of its use; long ones the processor foresees by itself.
template <typename Real>
inline void prefetch_row(const Real* row, int64_t length) {
    constexpr int64_t LINE = 64 / sizeof(Real);
    if (length > 4 * LINE) return;
    for (int64_t i = 0; i < length; i += LINE) __builtin_prefetch(row + i);
}

// All n rows with V columns: R at a time, then R/2 and so on for what is left.
template <typename Real, int R, int V>
void product_rows(const Real* const* a, const Real* b, int64_t b_stride, Real* const* c, int64_t depth, int64_t n) {
    for (; n >= R; n -= R, a += R, c += R) {
        for (int64_t r = R; r < std::min<int64_t>(2 * R, n); ++r) prefetch_row(a[r], depth);
        add_product<Real, R, V>(a, b, b_stride, c, depth);
    }
    if constexpr (R > 1) product_rows<Real, R / 2, V>(a, b, b_stride, c, depth, n);
}

template <typename Real, int R, int V>
void outer_rows(const Real* const* a, int64_t row, int64_t rows, const Real* const* g, int64_t col, Real* w,
                int64_t w_stride, int64_t pairs) {
    for (; rows >= R; rows -= R, row += R, w += R * w_stride)
        add_outer<Real, R, V>(a, row, g, col, w, w_stride, pairs);
    if constexpr (R > 1) outer_rows<Real, R / 2, V>(a, row, rows, g, col, w, w_stride, pairs);
}

// Calls run(std::integral_constant<int, V>, first column) over runs of at most MAX_COLUMNS vectors.
template <int V = MAX_COLUMNS, typename Run>
void for_column_runs(int64_t lanes, int64_t column, int64_t columns, const Run& run) {
    while (columns - column >= V * lanes) {
        run(std::integral_constant<int, V>{}, column);
        column += V * lanes;
    }
    if constexpr (V > 1) for_column_runs<V - 1>(lanes, column, columns, run);
}

template <typename Real>
inline void finish_rows(const Finish<Real>& finish, int64_t first_row, int64_t rows, int64_t cout, Real* out) {
    if (!finish.bias && !finish.residual && !finish.relu) return;
    for (int64_t r = first_row; r < first_row + rows; ++r) {
        Real* __restrict own = out + r * cout;
        const Real* __restrict residual = finish.residual ? finish.residual + r * cout : nullptr;
        if (finish.bias)
            for (int64_t c = 0; c < cout; ++c) own[c] += finish.bias[c];
        if (residual)
            for (int64_t c = 0; c < cout; ++c) own[c] += residual[c];
        if (finish.relu)
            for (int64_t c = 0; c < cout; ++c) own[c] = rectified(own[c], true);
    }
}

template <typename Real>
void convolve(const Plan& plan, const Real* in, int64_t cin, const Real* weight, int64_t cout,
              const Finish<Real>& finish, Real* out, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<const Real*> a;
        std::vector<Real*> c;
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < plan.blocks; ++block) {
            const int64_t first_row = block * plan.block_rows;
            const int64_t rows = std::min(plan.block_rows, plan.rows - first_row);
            std::fill_n(out + first_row * cout, rows * cout, Real(0));
            for (int64_t k = 0; k < plan.offsets; ++k) {
                const int64_t first = plan.start[block * plan.offsets + k];
                const int64_t pairs = plan.start[block * plan.offsets + k + 1] - first;
                if (pairs == 0) continue;
                a.resize(pairs);
                c.resize(pairs);
                for (int64_t p = 0; p < pairs; ++p) a[p] = in + plan.pair_in[first + p] * cin;
                for_column_runs(Lanes<Real>::count, 0, cout, [&](auto run, int64_t column) {
                    constexpr int V = decltype(run)::value;
                    for (int64_t p = 0; p < pairs; ++p) c[p] = out + plan.pair_out[first + p] * cout + column;
                    product_rows<Real, rows_for(V), V>(a.data(), weight + k * cin * cout + column, cout, c.data(), cin,
                                                       pairs);
                });
            }
            finish_rows(finish, first_row, rows, cout, out);
        }
    }
}

template <typename Real>
void weight_gradient(const Plan& plan, const Real* in, int64_t cin, const Real* out_grad, int64_t cout, Real* gradient,
                     int threads) {
    constexpr int64_t STEP = 4 * rows_for(MAX_COLUMNS);
    const auto shares = share_out(plan, cin, STEP, threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (size_t thread = 0; thread < shares.size(); ++thread) {
        std::vector<const Real*> a, g;
        for (int64_t block = 0; block < plan.blocks; ++block)
            for (const Share& share : shares[thread]) {
                const int64_t* start = plan.start + block * plan.offsets + share.offset;
                const int64_t pairs = start[1] - start[0];
                a.resize(pairs);
                g.resize(pairs);
                for (int64_t p = 0; p < pairs; ++p) {
                    a[p] = in + plan.pair_in[start[0] + p] * cin;
                    g[p] = out_grad + plan.pair_out[start[0] + p] * cout;
                    prefetch_row(a[p], cin);
                    prefetch_row(g[p], cout);
                }
                Real* weights = gradient + (share.offset * cin + share.first_row) * cout;
                for_column_runs(Lanes<Real>::count, 0, cout, [&](auto run, int64_t column) {
                    constexpr int V = decltype(run)::value;
                    outer_rows<Real, rows_for(V), V>(a.data(), share.first_row, share.rows, g.data(), column,
                                                     weights + column, cout, pairs);
                });
            }
    }
}

// As many sums as fit the registers, all at work at once; an input that the compiler cannot foresee.
template <typename Real>
int64_t multiply_adds(int64_t rounds) {
    using L = Lanes<Real>;
    constexpr int SUMS = MAX_SUMS;
    typename L::vector sum[SUMS], factor = {}, term = {};
    factor += Real(0.5);
    term += Real(rounds % 7);
#pragma GCC unroll 24
    for (int i = 0; i < SUMS; ++i) sum[i] = term + Real(i);
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
        for (int i = 0; i < SUMS; ++i) sum[i] = sum[i] * factor + term;
    }
    Real total = 0;
    for (int i = 0; i < SUMS; ++i)
        for (int lane = 0; lane < L::count; ++lane) total += sum[i][lane];
    [[maybe_unused]] static thread_local volatile Real sink;
    sink = total;
    return rounds * SUMS * L::count;
}

template <typename Real>
constexpr Kernels<Real> table() {
    return {convolve<Real>,  weight_gradient<Real>, moments<Real>,      normalise<Real>,
            norm_gradient<Real>, multiply_adds<Real>,   Lanes<Real>::count};
}

}  // namespace

const Kernels<float> single_precision = table<float>();
const Kernels<double> double_precision = table<double>();

}  // namespace bifusion::BIFUSION_ISA
