// The mean over each row of what is worked out from two numbers.
#include "common.cuh"

// means[row] = mean over columns of cost(a, b).
template <class Cost>
__device__ __forceinline__ void mean_of_rows(const REAL* a, const REAL* b, REAL* means, i64 rows, i64 columns,
                                             Cost cost) {
  for_each_row_by_lanes(rows, columns, [&](auto team, i64 row, i64 width) {
    REAL total = 0;
    for (i64 j = team.lane; j < width; j += team.size) total += cost(a[row * columns + j], b[row * columns + j]);
    total = team.reduce(total, Sum());
    if (row >= 0 && team.lane == 0) means[row] = total / (REAL)columns;
  });
}
