// Many training steps in one launch: a single block keeps a small network in its shared memory and goes through a table
// of operations, step after step. Nothing leaves the multiprocessor but what a caller may read afterwards.
//
// Floor: what the operations cost on one multiprocessor, and a barrier wherever one reads what other threads wrote; no
// launch, and no trip to global memory but for the batch.
#include "step_end.cuh"
#include "optimizers.cuh"
#include "elementwise.cuh"
#include "program.cuh"
#include "program_gradients.cuh"
#include "program_norm.cuh"
#include "program_products.cuh"
#include "program_samples.cuh"

// ---- the way in and out ---------------------------------------------------------------------------------------------

// `inputs` words of four bytes from x to out.
__device__ __forceinline__ void copy(Row row) {
  const u32* from = reinterpret_cast<const u32*>(row.x);
  u32* to = reinterpret_cast<u32*>(row.out);
  for_items((int)row.inputs, [&](int i) { to[i] = from[i]; });
}

// Call body(sample, its row in a data set): in the order `y`, of `outputs` places, from the cursor in `also` on, or as
// they lie. Of the data set's `word` rows, for those that are not there the nearest that is.
template <class Body>
__device__ __forceinline__ void for_samples_of(const Row& row, int count, Body body) {
  const i64 *order = reinterpret_cast<const i64*>(row.y), *counters = reinterpret_cast<const i64*>(row.also);
  i64 first = order ? counters[CURSOR] : 0;
  int samples = count / (int)row.inputs;
  for_items(count, [&](int i) {
    int sample = i / (int)row.inputs, feature = i - sample * (int)row.inputs;
    i64 from = order ? within(order[within(first + sample, row.outputs)], row.word) : sample;
    body((i64)feature * samples + sample, from * row.inputs + feature);
  });
}

// Data x [.., inputs], or class numbers [..], to out [inputs, samples].
__device__ __forceinline__ void load_samples(Row row, int samples) {
  const i64* labels = reinterpret_cast<const i64*>(row.x);
  if ((Op)row.op == Op::LOAD)
    for_samples_of(row, samples * (int)row.inputs, [&](i64 to, i64 from) { row.out[to] = row.x[from]; });
  else
    for_samples_of(row, samples, [&](i64 to, i64 from) { row.out[to] = (REAL)labels[from]; });
}

// ---- parameters -----------------------------------------------------------------------------------------------------

// also: Rates of AHEAD steps, from hyper x and counters y; kind: the optimizer. Warps that have none go ahead.
__device__ __forceinline__ void rates(Row row, i64 step) {
  if (step % AHEAD || threadIdx.x >= AHEAD) return;
  const double* hyper = reinterpret_cast<const double*>(row.x);
  i64 of = reinterpret_cast<const i64*>(row.y)[STEP] + threadIdx.x;
  Rates mine = {};
  set_rates(mine, hyper, of);
  if ((Optimizer)row.kind == Optimizer::NADAM) set_nadam_rates(mine, hyper, of);
  else if ((Optimizer)row.kind >= Optimizer::ADAM) set_adam_rates(mine, hyper, of);
  reinterpret_cast<Rates*>(row.also)[threadIdx.x] = mine;
}

// out += the gradient of a * sum|weights| + b * sum weights**2, of `inputs` weights; also: each warp's part of that in
// double, which `penalty` adds up.
__device__ __forceinline__ void regularize(Row row) {
  REAL l1 = (REAL)row.a, twice_l2 = (REAL)(2 * row.b);
  double sizes = 0, squares = 0;
  for_items((int)row.inputs, [&](int i) {
    REAL weight = row.weights[i];
    row.out[i] = regularized(row.out[i], weight, l1, twice_l2);
    sizes += magnitude((double)weight);
    squares += (double)weight * (double)weight;
  });
  double total = reduce_lanes(row.a * sizes + row.b * squares, 32, Sum());
  if (lane_of_warp() == 0) reinterpret_cast<double*>(row.also)[warp_of_block()] = total;
}

__device__ __forceinline__ void penalty(Row row) {
  if (threadIdx.x > 0) return;
  double total = 0;
  for (int warp = 0; warp < warps_of_block(); warp++) total += reinterpret_cast<const double*>(row.x)[warp];
  reinterpret_cast<double*>(row.out)[0] = total;
}

// `inputs` parameters `weights` by their gradients x, with moments y and biases, and the largest of these, out; also:
// Rates.
__device__ __forceinline__ void update(Row row, i64 step) {
  Rates by = reinterpret_cast<const Rates*>(row.also)[step % AHEAD];
  REAL *p = row.weights, *m = row.y, *v = row.biases, *u = row.out;
  const REAL* g = row.x;
  int n = (int)row.inputs;
  switch ((Optimizer)row.kind) {
    case Optimizer::SGD: return for_items(n, [&](int i) { sgd_step(by, p[i], g[i], m[i]); });
    case Optimizer::ADAGRAD: return for_items(n, [&](int i) { adagrad_step(by, p[i], g[i], v[i]); });
    case Optimizer::RMSPROP: return for_items(n, [&](int i) { rmsprop_step(by, p[i], g[i], v[i]); });
    case Optimizer::ADAM: return for_items(n, [&](int i) { adam_step(by, p[i], g[i], m[i], v[i]); });
    case Optimizer::NADAM: return for_items(n, [&](int i) { nadam_step(by, p[i], g[i], m[i], v[i]); });
    case Optimizer::AMSGRAD: return for_items(n, [&](int i) { amsgrad_step(by, p[i], g[i], m[i], v[i], u[i]); });
    case Optimizer::LION: return for_items(n, [&](int i) { lion_step(by, p[i], g[i], m[i]); });
    case Optimizer::ACCUMULATE: return for_items(n, [&](int i) { m[i] += g[i]; });
    default: __trap();  // no optimizer has this number
  }
}

// out: `inputs` gradients, each to be kept within +-b; also: each warp's part of their squares, in double.
__device__ __forceinline__ void squares(Row row) {
  REAL value = (REAL)row.b;
  double total = 0;
  for_items((int)row.inputs, [&](int i) {
    REAL gradient = clamp(row.out[i], -value, value);
    row.out[i] = gradient;
    total += (double)gradient * (double)gradient;
  });
  total = reduce_lanes(total, 32, Sum());
  if (lane_of_warp() == 0) reinterpret_cast<double*>(row.also)[warp_of_block()] = total;
}

// out: `inputs` gradients, to be no longer than a; x: each warp's part of their squares.
__device__ __forceinline__ void clip(Row row) {
  double total = 0;
  for (int warp = 0; warp < warps_of_block(); warp++) total += reinterpret_cast<const double*>(row.x)[warp];
  REAL scale = (REAL)scale_of(total, row.a);
  for_items((int)row.inputs, [&](int i) { row.out[i] *= scale; });
}

// out: `inputs` gradients; also: those of the batch's other parts, which are used up.
__device__ __forceinline__ void collect(Row row) {
  for_items((int)row.inputs, [&](int i) {
    row.out[i] += row.also[i];
    row.also[i] = 0;
  });
}

// out: the mean of `inputs` parameters x since step `word`, by a decay a; y: counters.
__device__ __forceinline__ void average(Row row) {
  REAL share = (REAL)share_of(row.a, reinterpret_cast<const i64*>(row.y)[STEP] - row.word + 1);
  for_items((int)row.inputs, [&](int i) { row.out[i] += share * (row.x[i] - row.out[i]); });
}

// The last warp, while others update: x: losses; hits or null; y: stats; weights: `inputs` penalties; out: history of
// `outputs` rows; also: counters.
__device__ __forceinline__ void end_step(Row row, int samples) {
  if (warp_of_block() < warps_of_block() - 1) return;
  double loss = 0, hits = 0;
  for (int s = lane_of_warp(); s < samples; s += 32) {
    loss += (double)row.x[s];
    if (row.hits) hits += (double)row.hits[s];
  }
  loss = reduce_lanes(loss, 32, Sum());
  hits = reduce_lanes(hits, 32, Sum());
  if (lane_of_warp() > 0) return;
  double* stats = reinterpret_cast<double*>(row.y);
  write_stats(stats, loss, hits, samples, row.hits);
  log_step(stats, reinterpret_cast<double*>(row.weights), row.inputs, reinterpret_cast<double*>(row.out), row.outputs,
           reinterpret_cast<i64*>(row.also), samples);
}

// ---- the loop -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void perform(const Row& row, int samples, i64 step) {
  switch ((Op)row.op) {
    case Op::COPY: return copy(row);
    case Op::LOAD:
    case Op::LABELS: return load_samples(row, samples);
    case Op::RATES: return rates(row, step);
    case Op::DENSE: return dense(row, samples);
    case Op::DENSE_BACKWARD: return dense_backward(row, samples);
    case Op::GRADIENT: return dense_gradient(row, samples);
    case Op::ELEMENTWISE: return elementwise(row, samples);
    case Op::DROPOUT: return dropout(row, samples);
    case Op::GAUSSIAN_NOISE: return gaussian_noise(row, samples);
    case Op::REGULARIZE: return regularize(row);
    case Op::PENALTY: return penalty(row);
    case Op::UPDATE: return update(row, step);
    case Op::SQUARES: return squares(row);
    case Op::CLIP: return clip(row);
    case Op::COLLECT: return collect(row);
    case Op::AVERAGE: return average(row);
    case Op::END_STEP: return end_step(row, samples);
    case Op::SUM: return sum(row, samples);
    case Op::MOMENTS: return moments(row, samples);
    case Op::BATCH_NORM: return batch_norm(row, samples);
    case Op::BATCH_NORM_BACKWARD: return batch_norm_backward(row, samples);
    default: return each_sample(row, samples);
  }
}

// One block. The table has `before` rows for the launch's beginning, `each` for every step, and `after` for its end; it
// is copied to where shared memory begins, with places turned to pointers.
extern "C" __global__ void __launch_bounds__(PROGRAM_THREADS)
    program(const long long* table, long long before, long long each, long long after, long long samples,
            long long steps) {
  extern __shared__ __align__(16) char memory[];
  i64* words = reinterpret_cast<i64*>(memory);
  const Row* rows = reinterpret_cast<const Row*>(memory);
  for_items((int)(before + each + after) * WORDS, [&](int i) {
    words[i] = i % WORDS < FIRST_PLACE ? table[i] : resolved(table[i], memory);
  });
  __syncthreads();
  // Steps -1 and `steps` are the beginning and the end: so every operation's body stands in one place.
  for (i64 step = -1; step <= steps; step++) {
    i64 first = step < 0 ? 0 : step < steps ? before : before + each;
    i64 last = step < 0 ? before : step < steps ? before + each : before + each + after;
    for (i64 r = first; r < last; r++) {
      const Row& row = rows[r];
      if (row.barrier) __syncthreads();
      perform(row, (int)samples, step);
    }
  }
}
