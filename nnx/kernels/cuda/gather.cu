// The next batch: rows of a data set that stays on the device, in a shuffled order that stays there too.
//
// Floor: rows * columns numbers read and written. The batch begins at counters[CURSOR], which the device itself moves
// on at the end of a step (step.cu), so a recorded launch gathers the next batch whenever it is replayed.
#include "common.cuh"

struct __align__(16) Sixteen {
  u64 halves[2];
};

// Which of `available` rows the batch's row is: places in the order and rows that are not there become the nearest that
// is.
struct Chosen {
  const i64* order;
  i64 places, first, available;
  __device__ __forceinline__ i64 operator()(i64 row) const {
    return within(order[within(first + row, places)], available);
  }
};

template <class T>
__device__ __forceinline__ void copy_rows(const T* source, Chosen chosen, T* out, i64 rows, i64 columns) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    if (row < 0) return;
    const T* from = source + chosen(row) * columns;
    T* to = out + row * columns;
    for (i64 j = team.lane; j < width; j += team.size) to[j] = from[j];
  });
}

// 16 bytes at a time where every row begins at a multiple of them.
template <class T>
__device__ __forceinline__ void gather(const T* source, const i64* order, const i64* counters, T* out, i64 rows,
                                       i64 columns, i64 available, i64 places) {
  Chosen chosen = {order, places, counters[CURSOR], available};
  i64 packs = columns * (i64)sizeof(T) / 16;
  if (packs * 16 == columns * (i64)sizeof(T) && aligned(source) && aligned(out))
    copy_rows(reinterpret_cast<const Sixteen*>(source), chosen, reinterpret_cast<Sixteen*>(out), rows, packs);
  else
    copy_rows(source, chosen, out, rows, columns);
}

extern "C" __global__ void gather_reals(const REAL* source, const long long* order, const long long* counters,
                                        REAL* out, long long rows, long long columns, long long available,
                                        long long places) {
  gather(source, order, counters, out, rows, columns, available, places);
}

extern "C" __global__ void gather_integers(const long long* source, const long long* order, const long long* counters,
                                           long long* out, long long rows, long long columns, long long available,
                                           long long places) {
  gather(source, order, counters, out, rows, columns, available, places);
}
