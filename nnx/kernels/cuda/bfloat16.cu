// Both factors of a matrix product, rounded to bfloat16: the upper half of a float's bits.
//
// Floor: 4 bytes read and 2 written for each number. One launch for both, because most factors are small.
#include "common.cuh"

typedef unsigned short u16;

template <int N>
struct __align__(N * 2) Halves {
  u16 at[N];
};

// To nearest, ties to even: infinities stay, what is too large becomes one, and NaN stays NaN.
__device__ __forceinline__ u16 to_bfloat16(REAL x) {
  u32 bits = __float_as_uint((float)x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)(bits >> 16 | 0x40u);
  return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ __forceinline__ void round_all(const REAL* x, u16* rounded, i64 n) {
  for_each(n, aligned(x) && aligned(rounded), [&](auto span) {
    auto numbers = span.load_from(x);
    Halves<span.count> halves;
#pragma unroll
    for (int k = 0; k < span.count; k++) halves.at[k] = to_bfloat16(numbers.at[k]);
    *reinterpret_cast<Halves<span.count>*>(rounded + span.first) = halves;
  });
}

extern "C" __global__ void round_to_bfloat16(const REAL* a, const REAL* b, unsigned short* a_rounded,
                                             unsigned short* b_rounded, long long a_count, long long b_count) {
  round_all(a, a_rounded, a_count);
  round_all(b, b_rounded, b_count);
}
