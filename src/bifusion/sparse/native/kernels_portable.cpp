#define BIFUSION_ISA portable
#define VECTOR_BYTES 16
#define MAX_SUMS 8
#include "norms.inl"
#include "kernels.inl"
