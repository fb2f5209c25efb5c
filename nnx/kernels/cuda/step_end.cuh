// The end of a step: its losses, the log of steps, the counters that move on.
#include "common.cuh"

__device__ __forceinline__ void write_stats(double* stats, double loss, double hits, i64 rows, bool with_hits) {
  stats[LOSS] = loss / (double)rows;
  if (with_hits) stats[HITS] = hits;
}

// One thread: a handful of numbers. The row of the history is chosen by a counter on the device, never on the host.
__device__ __forceinline__ void log_step(double* stats, const double* penalties, i64 penalty_count, double* history,
                                         i64 capacity, i64* counters, i64 rows) {
  double penalty = 0;
  for (i64 i = 0; i < penalty_count; i++) penalty += penalties[i];
  stats[PENALTY] = penalty;
  double* entry = history + counters[DONE] % capacity * STATS;
  for (int k = 0; k < STATS; k++) entry[k] = stats[k];
  counters[STEP] += 1;
  counters[CURSOR] += rows;
  counters[DONE] += 1;
}
