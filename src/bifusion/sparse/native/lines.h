// What the kernels with bfloat16 operands share: rows in whole cache lines, of which loads and tiles are made. To be
// included where AVX-512 is compiled for.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <memory>

#include "kernels.h"

namespace bifusion {

constexpr int64_t GROUP = 32;    // pairs that are multiplied together: two tiles of rows
constexpr int64_t COLUMNS = 16;  // float32 in a vector and in a row of a tile
constexpr int64_t DEPTH = 32;    // bfloat16 in a vector and in a row of a tile

struct alignas(64) Line {
    uint16_t bits[DEPTH];
};

// Lines that hold anything.
struct Lines {
    explicit Lines(int64_t count) : lines(new Line[count]) {}
    Line* data() { return lines.get(); }
    float* floats() { return reinterpret_cast<float*>(lines.get()); }
    std::unique_ptr<Line[]> lines;
};

inline __mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1; }

// out (., cout) = sums (., columns) + bias + residual, ReLU, of `rows` rows from `first_row` on. NaN passes, as in
// rectified().
inline void finish_rows(const float* sums, int64_t columns, int64_t first_row, int64_t rows, int64_t cout,
                        const Finish<float>& finish, float* out) {
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cout; c += COLUMNS) {
            const __mmask16 there = first_lanes(cout - c);
            const int64_t place = (first_row + r) * cout + c;
            __m512 value = _mm512_load_ps(sums + r * columns + c);
            if (finish.bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(there, finish.bias + c));
            if (finish.residual) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(there, finish.residual + place));
            const __mmask16 dropped = finish.relu ? _mm512_cmp_ps_mask(value, zero, _CMP_LT_OQ) : 0;
            _mm512_mask_storeu_ps(out + place, there, _mm512_mask_mov_ps(value, dropped, zero));
        }
}

}  // namespace bifusion
