// Sparse convolution with bfloat16 operands and float32 sums, on AMX's tiles or in AVX512-BF16's vectors.
// The products need intrinsics here; kernels.inl does without.
//
// Of up to GROUP pairs of one offset the input rows are gathered, rounded on the way, multiplied, and the
// products added to the sums of a block of output rows. A row's sums see its pairs in plan order whatever
// group they fall into: the result depends neither on the threads nor on the blocks.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace bifusion::bfloat16 {
namespace {

constexpr int64_t GROUP = 32;    // pairs: two tiles of rows
constexpr int64_t COLUMNS = 16;  // of a panel of weights; float32 in a vector and in a row of a tile
constexpr int64_t DEPTH = 32;    // bfloat16 in a vector and in a row of a tile

// A cache line, so that a std::vector of them begins at one: loads across two lines take twice as long.
struct alignas(64) Line {
    uint8_t bytes[64];
};

// Rows of `columns` sums, and the place of each pair's output row among them.
struct Sums {
    float* rows;
    int64_t columns;
    int32_t places[GROUP];
    float* row(int64_t pair) const { return rows + places[pair] * columns; }
};

inline __mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1; }

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
    // GCC before 13 does not know that loading a tile reads memory
    asm volatile("" ::: "memory");
}

struct Tiles {
    static void begin() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } whole_tiles;
        _tile_loadconfig(&whole_tiles);
    }
    static void end() { _tile_release(); }

    // products (32, 32) = a * weight; only the first 16 rows unless Tall, the first panel unless Wide. Four
    // products of tiles for two tiles of each operand: loading them then takes no longer than multiplying.
    template <bool Tall, bool Wide>
    static void multiply(const Bfloat16* a, int64_t depth, const Bfloat16* weight, float* products) {
        _tile_zero(0);
        if constexpr (Wide) _tile_zero(1);
        if constexpr (Tall) _tile_zero(2);
        if constexpr (Tall && Wide) _tile_zero(3);
        for (int64_t i = 0; i < depth; i += DEPTH) {
            _tile_loadd(4, a + i, depth * sizeof(Bfloat16));
            _tile_loadd(6, weight + i * COLUMNS, 64);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (Tall) {
                _tile_loadd(5, a + 16 * depth + i, depth * sizeof(Bfloat16));
                _tile_dpbf16ps(2, 5, 6);
            }
            if constexpr (Wide) {
                _tile_loadd(7, weight + (depth + i) * COLUMNS, 64);
                _tile_dpbf16ps(1, 4, 7);
                if constexpr (Tall) _tile_dpbf16ps(3, 5, 7);
            }
        }
        constexpr int64_t ROW = 2 * COLUMNS, BYTES = ROW * sizeof(float);
        _tile_stored(0, products, BYTES);
        if constexpr (Wide) _tile_stored(1, products + COLUMNS, BYTES);
        if constexpr (Tall) _tile_stored(2, products + 16 * ROW, BYTES);
        if constexpr (Tall && Wide) _tile_stored(3, products + 16 * ROW + COLUMNS, BYTES);
    }

    static void add_products(const Bfloat16* a, int64_t count, int64_t depth, const Bfloat16* weight,
                             const Sums& sums) {
        alignas(64) float products[GROUP * 2 * COLUMNS];
        const bool tall = count > 16;
        for (int64_t column = 0; column < sums.columns; column += 2 * COLUMNS) {
            const bool wide = sums.columns - column > COLUMNS;
            const auto multiply_some = tall ? (wide ? multiply<true, true> : multiply<true, false>)
                                            : (wide ? multiply<false, true> : multiply<false, false>);
            multiply_some(a, depth, weight + column * depth, products);
            for (int64_t r = 0; r < count; ++r)
                for (int64_t c = 0; c < (wide ? 2 : 1) * COLUMNS; c += COLUMNS) {
                    float* sum = sums.row(r) + column + c;
                    const __m512 product = _mm512_load_ps(products + r * 2 * COLUMNS + c);
                    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), product));
                }
        }
    }
};

struct Vectors {
    static void begin() {}
    static void end() {}

    static void add_products(const Bfloat16* a, int64_t count, int64_t depth, const Bfloat16* weight,
                             const Sums& sums) {
        for (int64_t column = 0; column < sums.columns; column += 2 * COLUMNS) {
            const Bfloat16* panel = weight + column * depth;
            if (sums.columns - column > COLUMNS)
                add_rows<12, 2>(a, 0, count, depth, panel, sums, column);
            else
                add_rows<12, 1>(a, 0, count, depth, panel, sums, column);
        }
    }

    // Pairs from `first` on with V panels: R at a time, then R/2 and so on for what is left.
    template <int R, int V>
    static void add_rows(const Bfloat16* a, int64_t first, int64_t count, int64_t depth, const Bfloat16* weight,
                         const Sums& sums, int64_t column) {
        for (; count - first >= R; first += R) add<R, V>(a + first * depth, depth, weight, sums, first, column);
        if constexpr (R > 1) add_rows<R / 2, V>(a, first, count, depth, weight, sums, column);
    }

    template <int R, int V>
    static void add(const Bfloat16* a, int64_t depth, const Bfloat16* weight, const Sums& sums, int64_t first,
                    int64_t column) {
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
};

// out = sums + bias + residual, ReLU, of `rows` rows from `first_row` on. NaN passes, as in rectified().
void finish_rows(const Sums& sums, int64_t first_row, int64_t rows, int64_t cout, const Finish<float>& finish,
                 float* out) {
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cout; c += COLUMNS) {
            const __mmask16 there = first_lanes(cout - c);
            const int64_t place = (first_row + r) * cout + c;
            __m512 value = _mm512_load_ps(sums.rows + r * sums.columns + c);
            if (finish.bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(there, finish.bias + c));
            if (finish.residual) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(there, finish.residual + place));
            const __mmask16 dropped = finish.relu ? _mm512_cmp_ps_mask(value, zero, _CMP_LT_OQ) : 0;
            _mm512_mask_storeu_ps(out + place, there, _mm512_mask_mov_ps(value, dropped, zero));
        }
}

constexpr int64_t lines(int64_t bytes) { return (bytes + 63) / 64; }

template <typename Unit>
void convolve(const Plan& plan, const float* in, int64_t cin, const Bfloat16* weight, int64_t cout,
              const Finish<float>& finish, float* out, int threads) {
    const int64_t depth = (cin + DEPTH - 1) / DEPTH * DEPTH, columns = (cout + COLUMNS - 1) / COLUMNS * COLUMNS;
#pragma omp parallel num_threads(threads)
    {
        std::vector<Line> gathered(lines(GROUP * depth * sizeof(Bfloat16)));  // zeros
        std::vector<Line> summed(lines(plan.block_rows * columns * sizeof(float)));
        Bfloat16* a = reinterpret_cast<Bfloat16*>(gathered.data());
        Sums sums{reinterpret_cast<float*>(summed.data()), columns, {}};
        Unit::begin();
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
                    Unit::add_products(a, count, depth, weight + k * depth * columns, sums);
                }
            }
            finish_rows(sums, first_row, rows, cout, finish, out);
        }
        Unit::end();
    }
}

}  // namespace

const Convolve convolve_on_tiles = convolve<Tiles>;
const Convolve convolve_in_vectors = convolve<Vectors>;

}  // namespace bifusion::bfloat16
