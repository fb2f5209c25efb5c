// What `program` (program.cu) interprets: one row for each operation of a training step.
//
// Everything for each sample lies feature by feature, [features, samples]: threads of a warp take neighbouring samples,
// read neighbouring words, and all the same weight.
#include "common.cuh"

#define PROGRAM_THREADS 512  // most threads of its block: program_table.py says the same
#define AHEAD 32             // steps whose rates are worked out at a time, a thread each

// program_table.py has the same names in the same order.
enum class Op {
  COPY, LOAD, LABELS, RATES, DENSE, DENSE_BACKWARD, GRADIENT, ELEMENTWISE, DROPOUT, SOFTMAX, SOFTMAX_BACKWARD,
  CROSS_ENTROPY, CROSS_ENTROPY_SOFT, ARGMAX, ONE_HOT, MEAN, REGULARIZE, PENALTY, UPDATE, END_STEP, WEIGH,
  LAYER_NORM, LAYER_NORM_BACKWARD, SUM, MOMENTS, BATCH_NORM, BATCH_NORM_BACKWARD, GAUSSIAN_NOISE,
  SQUARES, CLIP, COLLECT, AVERAGE, COLUMNS, EMBED, SCATTER
};
enum class Optimizer { SGD, ADAGRAD, RMSPROP, ADAM, NADAM, AMSGRAD, LION, ACCUMULATE };

// Sixteen words. What each operation takes from where is said beside its body.
struct Row {
  i64 op, kind, barrier;   // barrier: whether it must wait for what other threads did since the last one
  i64 inputs, outputs;     // numbers of a sample
  i64 word;                // a whole number
  double a, b, c;          // constants
  REAL *x, *y, *weights, *biases, *out, *also, *hits;  // operands; null: none
};
#define WORDS 16
#define FIRST_PLACE 9  // the word that is x

// An operand in the table is a place: the address of an array, or, below this, a byte of the block's shared memory,
// which no address is; -1 is none.
#define SHARED_PLACES (1 << 20)

__device__ __forceinline__ i64 resolved(i64 place, char* memory) {
  if (place < 0) return 0;
  return place < SHARED_PLACES ? reinterpret_cast<i64>(memory + place) : place;
}

// Call body(i) for every i below n, each in one thread.
template <class Body>
__device__ __forceinline__ void for_items(int n, Body body) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) body(i);
}

__device__ __forceinline__ int warp_of_block() { return threadIdx.x / 32; }
__device__ __forceinline__ int warps_of_block() { return blockDim.x / 32; }
__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % 32; }
