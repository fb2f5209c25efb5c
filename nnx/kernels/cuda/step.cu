// A step's bookkeeping, on the device: mean loss and right outputs, the log of steps, the counters that move on.
//
// Floor: the outputs and targets read once; no number goes to the host.
// Sums are in double and in a fixed order: each block adds up its share, a second launch adds up the blocks. One block
// writes the result itself, because a launch costs more than a small batch.
#include "elementwise.cuh"
#include "rows.cuh"
#include "step_end.cuh"

// What a row's number counts for: where there are no weights for itself.
__device__ __forceinline__ double counted(double value, const REAL* weights, i64 row) {
  return weights ? weighed(value, (double)weights[row]) : value;
}

// The losses of a block's share, one of its threads' parts of that.
__device__ __forceinline__ double sum_of_losses(const REAL* losses, const REAL* weights, i64 rows) {
  double total = 0;
  for (i64 row = grid_thread(); row < rows; row += grid_threads()) total += counted(losses[row], weights, row);
  return total;
}

__device__ __forceinline__ void finish(double loss, double hits, double* parts, double* stats, i64 rows, bool with_hits,
                                       double* shared) {
  loss = reduce_block(loss, shared, Sum());
  hits = reduce_block(hits, shared, Sum());
  if (threadIdx.x > 0) return;
  if (gridDim.x == 1) {
    write_stats(stats, loss, hits, rows, with_hits);
  } else {
    parts[2 * blockIdx.x] = loss;
    parts[2 * blockIdx.x + 1] = hits;
  }
}

extern "C" __global__ void tally_losses(const REAL* losses, const REAL* weights, double* parts, double* stats,
                                        long long rows) {
  __shared__ double shared[WARPS];
  finish(sum_of_losses(losses, weights, rows), 0, parts, stats, rows, false, shared);
}

// ---- the largest output ---------------------------------------------------------------------------------------------

// Every lane of the team gets the place of the row's largest number.
__device__ __forceinline__ i64 place_of_largest(LanesOfWarp team, const REAL* x, i64 columns) {
  Best best = largest(team, x, columns);
  for (int distance = team.size >> 1; distance > 0; distance >>= 1) {
    Best other = {__shfl_xor_sync(ALL_LANES, best.value, distance), __shfl_xor_sync(ALL_LANES, best.place, distance)};
    if (beats(other, best)) best = other;
  }
  return best.place;
}

extern "C" __global__ void tally_labels(const REAL* losses, const REAL* weights, const REAL* outputs,
                                        const long long* target, double* parts, double* stats, long long rows,
                                        long long columns) {
  __shared__ double shared[WARPS];
  double hits = 0;
  for_each_row_by_lanes(rows, columns, [&](LanesOfWarp team, i64 row, i64 width) {
    i64 place = place_of_largest(team, outputs + row * columns, width);
    if (row >= 0 && team.lane == 0) hits += counted(place == target[row], weights, row);
  });
  finish(sum_of_losses(losses, weights, rows), hits, parts, stats, rows, true, shared);
}

extern "C" __global__ void tally_distributions(const REAL* losses, const REAL* weights, const REAL* outputs,
                                               const REAL* target, double* parts, double* stats, long long rows,
                                               long long columns) {
  __shared__ double shared[WARPS];
  double hits = 0;
  for_each_row_by_lanes(rows, columns, [&](LanesOfWarp team, i64 row, i64 width) {
    i64 place = place_of_largest(team, outputs + row * columns, width);
    i64 wanted = place_of_largest(team, target + row * columns, width);
    if (row >= 0 && team.lane == 0) hits += counted(place == wanted, weights, row);
  });
  finish(sum_of_losses(losses, weights, rows), hits, parts, stats, rows, true, shared);
}

// ---- each output by itself ------------------------------------------------------------------------------------------

// How many elements of this thread are right: a sample counts by the share of its outputs that are.
template <class Right>
__device__ __forceinline__ double share_of_right(const REAL* outputs, const REAL* target, const REAL* weights, i64 rows,
                                                 i64 columns, Right right) {
  i64 count = 0;
  double total = 0;
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    bool is = right(outputs[i], target[i]);
    if (weights) total += counted(is, weights, i / columns);
    else count += is;
  }
  return (total + (double)count) / (double)columns;
}

extern "C" __global__ void tally_above(const REAL* losses, const REAL* weights, const REAL* outputs,
                                       const REAL* target, double* parts, double* stats, long long rows,
                                       long long columns, REAL threshold) {
  __shared__ double shared[WARPS];
  double hits = share_of_right(outputs, target, weights, rows, columns, [&](REAL output, REAL wanted) {
    return above_of(output, wanted, threshold) != 0;
  });
  finish(sum_of_losses(losses, weights, rows), hits, parts, stats, rows, true, shared);
}

extern "C" __global__ void tally_near(const REAL* losses, const REAL* weights, const REAL* outputs,
                                      const REAL* target, double* parts, double* stats, long long rows,
                                      long long columns, REAL tolerance) {
  __shared__ double shared[WARPS];
  double hits = share_of_right(outputs, target, weights, rows, columns, [&](REAL output, REAL wanted) {
    return near_of(output, wanted, tolerance) != 0;
  });
  finish(sum_of_losses(losses, weights, rows), hits, parts, stats, rows, true, shared);
}

// One block.
extern "C" __global__ void tally_total(const double* parts, double* stats, long long count, long long rows,
                                       int with_hits) {
  __shared__ double shared[WARPS];
  double loss = 0, hits = 0;
  for (i64 i = threadIdx.x; i < count; i += THREADS) {
    loss += parts[2 * i];
    hits += parts[2 * i + 1];
  }
  loss = reduce_block(loss, shared, Sum());
  hits = reduce_block(hits, shared, Sum());
  if (threadIdx.x == 0) write_stats(stats, loss, hits, rows, with_hits);
}

// ---- weights --------------------------------------------------------------------------------------------------------

// y may be x.
extern "C" __global__ void weigh(const REAL* x, const REAL* weights, REAL* y, long long rows, long long columns) {
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) y[i] = weighed(x[i], weights[i / columns]);
}

// ---- the end of a step ----------------------------------------------------------------------------------------------

extern "C" __global__ void end_step(double* stats, const double* penalties, long long penalty_count, double* history,
                                    long long capacity, long long* counters, long long rows) {
  if (grid_thread() > 0) return;
  log_step(stats, penalties, penalty_count, history, capacity, counters, rows);
}
