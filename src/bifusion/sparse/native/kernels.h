// The compute kernels behind sparse convolution, one table of them per instruction set and precision.
//
// All matrices are dense and row-major. A convolution is a list of pairs (input row, output row) per
// kernel offset; `Plan` orders the pairs by blocks of output rows and, within a block, by offset, so
// that the block's outputs and one offset's weights stay in cache while they are used.
#pragma once
#include <cstdint>

namespace bifusion {

struct Plan {
    const int32_t* pair_in;   // rows of the matrix that is read
    const int32_t* pair_out;  // rows of the matrix that is written; of one block only within a block
    const int64_t* start;     // (blocks * offsets + 1): first pair of block b and offset k at b * offsets + k
    int64_t offsets;
    int64_t rows;        // of the matrix that is written
    int64_t block_rows;  // of each block but perhaps the last
    int64_t blocks;
};

// What becomes of a convolution's sums while they are still in cache: + bias (cout), + residual
// (rows, cout), ReLU. Null: not wanted.
template <typename Real>
struct Finish {
    const Real *bias, *residual;
    bool relu;
};

// (x - mean) * scale + shift, each (channels).
template <typename Real>
struct Norm {
    const Real *mean, *scale, *shift;
};

template <typename Real>
struct Kernels {
    // out[o] = sum over the pairs of o of in[pair_in] * weight[k]: in (., cin), weight (offsets, cin, cout),
    // out (rows, cout), which may hold anything before.
    // cout must be a multiple of `lanes`. Every output row is written by one thread, in plan order.
    void (*convolve)(const Plan&, const Real* in, int64_t cin, const Real* weight, int64_t cout,
                     const Finish<Real>& finish, Real* out, int threads);
    // gradient[k] += in[pair_in]^T * out_grad[pair_out] of the offset's pairs, in plan order; gradient
    // (offsets, cin, cout), cout a multiple of `lanes`.
    void (*weight_gradient)(const Plan&, const Real* in, int64_t cin, const Real* out_grad, int64_t cout,
                            Real* gradient, int threads);
    // Of each channel of x (rows, channels): mean and sum of squared deviations, summed in blocks whose
    // sums are merged in double, in an order that does not depend on the threads.
    void (*moments)(const Real* x, int64_t rows, int64_t channels, double* mean, double* squares, int threads);
    // out = norm of x, + residual unless null, ReLU if asked for; all (rows, channels).
    void (*normalise)(const Real* x, int64_t rows, int64_t channels, const Norm<Real>&, const Real* residual,
                      bool relu, Real* out, int threads);
    // From grad (rows, channels) of what `normalise` gave: x_grad where mean and variance are x's own. ReLU's
    // decisions are read in `out`, or, without a residual, found again if that is null. `passed`, null or
    // (rows, channels): the residual's gradient. sums (2, channels): shift's and scale's gradients.
    void (*norm_gradient)(const Real* x, int64_t rows, int64_t channels, const Norm<Real>&, const Real* inverse_std,
                          const Real* grad, const Real* out, bool relu, Real* passed, Real* x_grad, double* sums,
                          int threads);
    // Multiply-adds that one thread made in `rounds` rounds on numbers that never leave the registers.
    int64_t (*multiply_adds)(int64_t rounds);
    int64_t lanes;
};

// One pair of tables per instruction set; a name exists only where the compiler could build it.
namespace avx512 {
extern const Kernels<float> single_precision;
extern const Kernels<double> double_precision;
}  // namespace avx512
namespace avx2 {
extern const Kernels<float> single_precision;
extern const Kernels<double> double_precision;
}  // namespace avx2
namespace neon {
extern const Kernels<float> single_precision;
extern const Kernels<double> double_precision;
}  // namespace neon
namespace portable {
extern const Kernels<float> single_precision;
extern const Kernels<double> double_precision;
}  // namespace portable

// Convolution in use, with bfloat16 operands and float32 sums: as Kernels<float>::convolve, but of any cout.
// `weight` is (offsets, panels of 16 columns, pairs of cin, 16, 2), cin filled up with zeros to a multiple of
// 32 and cout to one of 16, and begins at a cache line: what a tile holds lies in one piece.
namespace bfloat16 {
using Bfloat16 = uint16_t;  // its bits
using Convolve = void (*)(const Plan&, const float* in, int64_t cin, const Bfloat16* weight, int64_t cout,
                          const Finish<float>& finish, float* out, int threads);
extern const Convolve convolve_in_vectors;
}  // namespace bfloat16

// On AMX's tiles; what has little work, and all but convolution, is avx512's.
namespace tiles {
extern const Kernels<float> single_precision;
extern const bfloat16::Convolve convolve_bfloat16;
}  // namespace tiles

}  // namespace bifusion
