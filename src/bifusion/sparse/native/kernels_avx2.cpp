#define BIFUSION_ISA avx2
#define VECTOR_BYTES 32
#define MAX_SUMS 12
#include "norms.inl"
#include "kernels.inl"
