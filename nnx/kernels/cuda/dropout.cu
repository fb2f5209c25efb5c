// Dropout: which elements stay is drawn anew, forward and backward.
//
// Floor: 2 arrays moved, which in float is 8 bytes an element; beside that 20 products of 32 bits for four elements.
#include "philox.cuh"

// Four elements, N at a time.
template <int N>
__device__ __forceinline__ void drop(const REAL* x, REAL* y, int count, const Words& words, u32 threshold, REAL scale) {
#pragma unroll
  for (int first = 0; first < 4; first += N) {
    if (first >= count) return;
    Numbers<N> numbers = load<N>(x + first);
#pragma unroll
    for (int k = 0; k < N; k++) numbers.at[k] = dropped(numbers.at[k], words.at[first + k], threshold, scale);
    store<N>(y + first, numbers);
  }
}

// Element (r, c) takes word c % 4 of the counter (r, c / 4, step, high word): a thread has one counter, four elements of
// a row; above the layer's 32 bits stands what r is of the first row here. y may be x. The step is read from the device, so that a recorded launch draws new words when it is replayed.
extern "C" __global__ void dropout(const REAL* x, REAL* y, long long rows, long long columns, const long long* counters,
                                   unsigned long long seed, unsigned long long layer, unsigned int threshold, REAL scale) {
  u64 step = (u64)counters[STEP];
  u32 high = high_word(step, (u32)layer), begin = (u32)(layer >> 32);
  i64 groups = quotient_up(columns, 4);
  bool wide = columns % 4 == 0 && aligned(x) && aligned(y);
  for (i64 i = grid_thread(); i < rows * groups; i += grid_threads()) {
    i64 row = quotient(i, groups), group = i - row * groups, first = row * columns + 4 * group;
    Words words = philox(begin + (u32)row, (u32)group, (u32)step, high, seed);
    int count = (int)smaller(4, columns - 4 * group);
    if (wide)
      drop<WIDE>(x + first, y + first, count, words, threshold, scale);
    else
      drop<1>(x + first, y + first, count, words, threshold, scale);
  }
}
