// Sparse convolution with bfloat16 operands and float32 sums in AVX512-BF16's vectors.
//
// Of up to GROUP pairs of one offset the input rows are gathered, rounded on the way, multiplied, and the
// products added to the sums of a block of output rows. A row's sums see its pairs in plan order whatever
// group they fall into: the result depends neither on the threads nor on the blocks.
#include <algorithm>
#include <cstring>

#include "lines.h"

namespace bifusion::bfloat16 {
namespace {

// Rows of `columns` sums, and the place of each pair's output row among them.
struct Sums {
    float* rows;
    int64_t columns;
    int32_t places[GROUP];
    float* row(int64_t pair) const { return rows + places[pair] * columns; }
};

// a[r] = in[rows[r]] in bfloat16, rounded to nearest, zeros behind its cin channels.
inline void gather(const float* in, int64_t cin, const int32_t* rows, int64_t count, int64_t depth, Bfloat16* a) {
    for (int64_t r = 0; r < count; ++r) {
        const float* row = in + rows[r] * cin;
        for (int64_t i = 0; i < cin; i += DEPTH) {
            const __m512 low = _mm512_maskz_loadu_ps(first_lanes(cin - i), row + i);
            const __m512 high = _mm512_maskz_loadu_ps(first_lanes(cin - i - 16), row + i + 16);
            _mm512_store_si512(a + r * depth + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

template <int R, int V>
void add(const Bfloat16* a, int64_t depth, const Bfloat16* weight, const Sums& sums, int64_t first, int64_t column) {
    __m512 sum[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_load_ps(sums.row(first + r) + column + v * COLUMNS);
    for (int64_t i = 0; i < depth; i += 2) {
        __m512i panel[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) panel[v] = _mm512_load_si512(weight + (v * depth + i) * COLUMNS);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t two;
            std::memcpy(&two, a + r * depth + i, sizeof two);
            const __m512i x = _mm512_set1_epi32(two);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)x, (__m512bh)panel[v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) _mm512_store_ps(sums.row(first + r) + column + v * COLUMNS, sum[r][v]);
}

// Pairs from `first` on with V panels: R at a time, then R/2 and so on for what is left.
template <int R, int V>
void add_rows(const Bfloat16* a, int64_t first, int64_t count, int64_t depth, const Bfloat16* weight, const Sums& sums,
              int64_t column) {
    for (; count - first >= R; first += R) add<R, V>(a + first * depth, depth, weight, sums, first, column);
    if constexpr (R > 1) add_rows<R / 2, V>(a, first, count, depth, weight, sums, column);
}

void add_products(const Bfloat16* a, int64_t count, int64_t depth, const Bfloat16* weight, const Sums& sums) {
    for (int64_t column = 0; column < sums.columns; column += 2 * COLUMNS) {
        const Bfloat16* panel = weight + column * depth;
        if (sums.columns - column > COLUMNS)
            add_rows<12, 2>(a, 0, count, depth, panel, sums, column);
        else
            add_rows<12, 1>(a, 0, count, depth, panel, sums, column);
    }
}

void convolve(const Plan& plan, const float* in, int64_t cin, const Bfloat16* weight, int64_t cout,
              const Finish<float>& finish, float* out, int threads) {
    const int64_t depth = (cin + DEPTH - 1) / DEPTH * DEPTH, columns = (cout + COLUMNS - 1) / COLUMNS * COLUMNS;
#pragma omp parallel num_threads(threads)
    {
        Lines gathered(GROUP * depth / DEPTH), summed(plan.block_rows * columns / COLUMNS);
        Bfloat16* a = gathered.data()->bits;
        Sums sums{summed.floats(), columns, {}};
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < plan.blocks; ++block) {
            const int64_t first_row = block * plan.block_rows;
            const int64_t rows = std::min(plan.block_rows, plan.rows - first_row);
            std::fill_n(sums.rows, rows * columns, 0.0f);
            for (int64_t k = 0; k < plan.offsets; ++k) {
                const int64_t end = plan.start[block * plan.offsets + k + 1];
                for (int64_t pair = plan.start[block * plan.offsets + k]; pair < end; pair += GROUP) {
                    const int64_t count = std::min(GROUP, end - pair);
                    gather(in, cin, plan.pair_in + pair, count, depth, a);
                    for (int64_t r = 0; r < count; ++r) sums.places[r] = plan.pair_out[pair + r] - (int32_t)first_row;
                    add_products(a, count, depth, weight + k * depth * columns, sums);
                }
            }
            finish_rows(sums.rows, columns, first_row, rows, cout, finish, out);
        }
    }
}

}  // namespace

const Convolve convolve_in_vectors = convolve;

}  // namespace bifusion::bfloat16
