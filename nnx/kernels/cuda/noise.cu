// Gaussian noise: normal numbers, drawn anew in each step, added to what comes in.
//
// Floor: 2 arrays moved; beside that, for four elements, 20 products of 32 bits, and in double two logarithms and two pairs
// of a sine and a cosine, so that all backends draw the same.
#include "normal.cuh"

// Element (r, c) takes the words of `dropout` (dropout.cu), two and two for as many elements. y may be x.
extern "C" __global__ void gaussian_noise(const REAL* x, REAL* y, long long rows, long long columns,
                                          const long long* counters, unsigned long long seed, unsigned long long layer,
                                          double stddev) {
  u64 step = (u64)counters[STEP];
  u32 high = high_word(step, (u32)layer), begin = (u32)(layer >> 32);
  i64 groups = quotient_up(columns, 4);
  for (i64 i = grid_thread(); i < rows * groups; i += grid_threads()) {
    i64 row = quotient(i, groups), group = i - row * groups, first = row * columns + 4 * group;
    Words words = philox(begin + (u32)row, (u32)group, (u32)step, high, seed);
    for_normals(words, [&](int k, double number) {
      if (4 * group + k < columns) y[first + k] = x[first + k] + (REAL)(stddev * number);
    });
  }
}
