// Philox4x32-10, integer for integer the words of nnx/kernels/philox.py; nothing is stored.
// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#include "common.cuh"

struct Words {
  u32 at[4];
};

__device__ __forceinline__ Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u64 key) {
  u32 k0 = (u32)key, k1 = (u32)(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
    c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (u32)p1;
    c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// The last word of a counter: the layer, and above it the bits of the step that the word before has no room for.
__device__ __forceinline__ u32 high_word(u64 step, u32 layer) { return ((u32)(step >> 32) << 16) ^ layer; }

// A choice, not a product, so that a dropped infinity is 0.
__device__ __forceinline__ REAL dropped(REAL x, u32 word, u32 threshold, REAL scale) {
  return word >= threshold ? x * scale : (REAL)0;
}
