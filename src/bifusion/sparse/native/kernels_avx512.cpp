#define BIFUSION_ISA avx512
#define VECTOR_BYTES 64
#define MAX_SUMS 24
#include "norms.inl"
#include "kernels.inl"
