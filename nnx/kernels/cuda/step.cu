// A step's bookkeeping, on the device: mean loss and right outputs, the log of steps, the counters that move on.
//
// Floor: the outputs and targets read once; no number goes to the host.
// Sums are in double and in a fixed order: each block adds up its share, a second launch adds up the blocks. One block
// writes the result itself, because a launch costs more than a small batch.
#include "common.cuh"

__device__ __forceinline__ void write_stats(double* stats, double loss, double hits, i64 rows, bool with_hits) {
  stats[LOSS] = loss / (double)rows;
  if (with_hits) stats[HITS] = hits;
}

// The losses of a block's share, one of its threads' parts of that.
__device__ __forceinline__ double sum_of_losses(const REAL* losses, i64 rows) {
  double total = 0;
  for (i64 row = grid_thread(); row < rows; row += grid_threads()) total += (double)losses[row];
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

extern "C" __global__ void tally_losses(const REAL* losses, double* parts, double* stats, long long rows) {
  __shared__ double shared[WARPS];
  finish(sum_of_losses(losses, rows), 0, parts, stats, rows, false, shared);
}

// ---- the largest output ---------------------------------------------------------------------------------------------

struct Best {
  REAL value;
  i64 place;
};

// Of equals the first is the best, and NaN is above all numbers: as NumPy's argmax has it.
__device__ __forceinline__ bool beats(Best a, Best b) {
  bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
  if (a_is_nan != b_is_nan) return a_is_nan;
  if (a.value == b.value || a_is_nan) return a.place < b.place;
  return a.value > b.value;
}

// Every lane of the team gets the place of the row's largest number.
__device__ __forceinline__ i64 place_of_largest(LanesOfWarp team, const REAL* x, i64 columns) {
  Best best = {-infinity(), columns};
  for (i64 j = team.lane; j < columns; j += team.size) {
    Best other = {x[j], j};
    if (beats(other, best)) best = other;
  }
  for (int distance = team.size >> 1; distance > 0; distance >>= 1) {
    Best other = {__shfl_xor_sync(ALL_LANES, best.value, distance), __shfl_xor_sync(ALL_LANES, best.place, distance)};
    if (beats(other, best)) best = other;
  }
  return best.place;
}

extern "C" __global__ void tally_labels(const REAL* losses, const REAL* outputs, const long long* target, double* parts,
                                        double* stats, long long rows, long long columns) {
  __shared__ double shared[WARPS];
  double hits = 0;
  for_each_row_by_lanes(rows, columns, [&](LanesOfWarp team, i64 row, i64 width) {
    i64 place = place_of_largest(team, outputs + row * columns, width);
    if (row >= 0 && team.lane == 0) hits += place == target[row];
  });
  finish(sum_of_losses(losses, rows), hits, parts, stats, rows, true, shared);
}

extern "C" __global__ void tally_distributions(const REAL* losses, const REAL* outputs, const REAL* target,
                                               double* parts, double* stats, long long rows, long long columns) {
  __shared__ double shared[WARPS];
  double hits = 0;
  for_each_row_by_lanes(rows, columns, [&](LanesOfWarp team, i64 row, i64 width) {
    i64 place = place_of_largest(team, outputs + row * columns, width);
    i64 wanted = place_of_largest(team, target + row * columns, width);
    if (row >= 0 && team.lane == 0) hits += place == wanted;
  });
  finish(sum_of_losses(losses, rows), hits, parts, stats, rows, true, shared);
}

// ---- each output by itself ------------------------------------------------------------------------------------------

// How many elements of this thread are right: a sample counts by the share of its outputs that are.
template <class Right>
__device__ __forceinline__ double share_of_right(const REAL* outputs, const REAL* target, i64 rows, i64 columns,
                                                 Right right) {
  i64 count = 0;
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) count += right(outputs[i], target[i]);
  return (double)count / (double)columns;
}

extern "C" __global__ void tally_sides(const REAL* losses, const REAL* outputs, const REAL* target, double* parts,
                                       double* stats, long long rows, long long columns, REAL threshold) {
  __shared__ double shared[WARPS];
  double hits = share_of_right(outputs, target, rows, columns, [&](REAL output, REAL wanted) {
    return (output > threshold) == (wanted > (REAL)0.5);
  });
  finish(sum_of_losses(losses, rows), hits, parts, stats, rows, true, shared);
}

extern "C" __global__ void tally_distances(const REAL* losses, const REAL* outputs, const REAL* target, double* parts,
                                           double* stats, long long rows, long long columns, REAL precision) {
  __shared__ double shared[WARPS];
  double hits = share_of_right(outputs, target, rows, columns, [&](REAL output, REAL wanted) {
    return magnitude(output - wanted) < precision;
  });
  finish(sum_of_losses(losses, rows), hits, parts, stats, rows, true, shared);
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

// ---- the end of a step ----------------------------------------------------------------------------------------------

// One thread: a handful of numbers. The row of the history is chosen by a counter on the device, never on the host.
extern "C" __global__ void end_step(double* stats, const double* penalties, long long penalty_count, double* history,
                                    long long capacity, long long* counters, long long rows) {
  if (grid_thread() > 0) return;
  double penalty = 0;
  for (i64 i = 0; i < penalty_count; i++) penalty += penalties[i];
  stats[PENALTY] = penalty;
  double* entry = history + counters[DONE] % capacity * STATS;
  for (int k = 0; k < STATS; k++) entry[k] = stats[k];
  counters[STEP] += 1;
  counters[CURSOR] += rows;
  counters[DONE] += 1;
}
