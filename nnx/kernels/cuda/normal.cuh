// Normal numbers of the words of philox.cuh (Box and Muller, 1958): by a call, since inlined they cost many registers.
#include "philox.cuh"

// Two normal numbers of two words, as philox.py makes them.
struct Normals {
  double at[2];
};

__device__ __noinline__ Normals normals(u32 a, u32 b) {
  double radius = square_root(-2 * logarithm(((double)a + 0.5) * 2.3283064365386962890625e-10));  // 1 / 2**32
  double turns = (double)b * 4.656612873077392578125e-10;  // in halves: 2 / 2**32
  return {{radius * cospi(turns), radius * sinpi(turns)}};
}

// Call body(k, number) for the four numbers of a counter.
template <class Body>
__device__ __forceinline__ void for_normals(const Words& words, Body body) {
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    Normals numbers = normals(words.at[pair], words.at[pair + 1]);
    body(pair, numbers.at[0]);
    body(pair + 1, numbers.at[1]);
  }
}
