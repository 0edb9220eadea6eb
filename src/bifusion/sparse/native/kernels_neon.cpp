// 64-bit ARM: 32 registers of 128 bits. With more than 20 sums GCC spills in the inner loops.
#define BIFUSION_ISA neon
#define VECTOR_BYTES 16
#define MAX_SUMS 20
#include "norms.inl"
#include "kernels.inl"
