// Dense layers of a program: products with a tile of the result in each thread's registers.
//
// Floor: 128 multiply-adds a clock in float. For OUTPUTS * SAMPLES of them a thread reads SAMPLES words, which the
// lanes of its warp have side by side, and OUTPUTS weights, which are the same for all of them: three accesses for
// eight.
#include "elementwise.cuh"
#include "program.cuh"

#define SAMPLES 2  // of a thread's tile
#define OUTPUTS 4  // of a thread's tile: neighbours

// ---- weights of OUTPUTS neighbouring outputs, at `deep` successive inputs -------------------------------------------

// Weights of one input are neighbours, and begin at a multiple of OUTPUTS.
struct AlongOutputs {
  const REAL* first;
  int width;
  static constexpr int deep = 1;
  __device__ __forceinline__ void read(int input, REAL (&block)[1][OUTPUTS]) const {
#pragma unroll
    for (int t = 0; t < OUTPUTS; t += WIDE) {
      Numbers<WIDE> few = load<WIDE>(first + input * width + t);
#pragma unroll
      for (int k = 0; k < WIDE; k++) block[0][t + k] = few.at[k];
    }
  }
};

// Weights of one output are neighbours, and begin at a multiple of WIDE.
struct AlongInputs {
  const REAL* weights;
  int of[OUTPUTS];  // where those of each output begin
  static constexpr int deep = WIDE;
  __device__ __forceinline__ void read(int input, REAL (&block)[WIDE][OUTPUTS]) const {
#pragma unroll
    for (int t = 0; t < OUTPUTS; t++) {
      Numbers<WIDE> few = load<WIDE>(weights + of[t] + input);
#pragma unroll
      for (int k = 0; k < WIDE; k++) block[k][t] = few.at[k];
    }
  }
};

struct OneByOne {
  const REAL* weights;
  int of[OUTPUTS], step;
  static constexpr int deep = 1;
  __device__ __forceinline__ void read(int input, REAL (&block)[1][OUTPUTS]) const {
#pragma unroll
    for (int t = 0; t < OUTPUTS; t++) block[0][t] = weights[of[t] + input * step];
  }
};

// ---- results for samples --------------------------------------------------------------------------------------------

// finish(output, sample, sum over inputs of x * weight) for every output of every sample. weights_of(output) gives the
// weights of that output and those after it; what is beyond the last is worked out like the last, and dropped.
template <class WeightsOf, class Finish>
__device__ __forceinline__ void multiply(const REAL* x, int samples, int inputs, int outputs, WeightsOf weights_of,
                                         Finish finish) {
  constexpr int deep = decltype(weights_of(0))::deep;
  int groups = (samples + SAMPLES - 1) / SAMPLES, across = (outputs + OUTPUTS - 1) / OUTPUTS;
  for_items(groups * across, [&](int item) {
    int tile = item / groups, sample = item - tile * groups, output = tile * OUTPUTS;
    auto weights = weights_of(output);
    const REAL* of[SAMPLES];
    REAL sums[SAMPLES][OUTPUTS] = {};
#pragma unroll
    for (int s = 0; s < SAMPLES; s++) of[s] = x + smaller(sample + s * groups, samples - 1);
#pragma unroll(4 / deep)
    for (int input = 0; input < inputs; input += deep) {
      REAL block[deep][OUTPUTS];
      weights.read(input, block);
#pragma unroll
      for (int k = 0; k < deep; k++)
#pragma unroll
        for (int s = 0; s < SAMPLES; s++) {
          REAL number = of[s][(input + k) * samples];
#pragma unroll
          for (int t = 0; t < OUTPUTS; t++) sums[s][t] += number * block[k][t];
        }
    }
#pragma unroll
    for (int t = 0; t < OUTPUTS; t++)
#pragma unroll
      for (int s = 0; s < SAMPLES; s++)
        if (output + t < outputs && sample + s * groups < samples) finish(output + t, sample + s * groups, sums[s][t]);
  });
}

// Where the weights of OUTPUTS results begin, `apart` numbers from each other; the last one again beyond the last.
template <class Weights>
__device__ __forceinline__ Weights pointed(Weights weights, int output, int outputs, int apart) {
#pragma unroll
  for (int t = 0; t < OUTPUTS; t++) weights.of[t] = (int)smaller(output + t, outputs - 1) * apart;
  return weights;
}

// out = x @ weights + biases; kind: ReLU follows.
__device__ __forceinline__ void dense(Row row, int samples) {
  int inputs = (int)row.inputs, outputs = (int)row.outputs;
  auto finish = [&](int output, int sample, REAL sum) {
    sum += row.biases[output];
    row.out[output * samples + sample] = row.kind ? relu_of(sum) : sum;
  };
  if (outputs % OUTPUTS == 0 && aligned(row.weights)) {
    multiply(row.x, samples, inputs, outputs, [&](int output) { return AlongOutputs{row.weights + output, outputs}; },
             finish);
  } else {
    auto weights_of = [&](int output) {
      return pointed(OneByOne{row.weights, {}, outputs}, output, outputs, 1);
    };
    multiply(row.x, samples, inputs, outputs, weights_of, finish);
  }
}

// out [inputs] = x [outputs] @ weights.T; kind: where y is positive, else 0, which is ReLU's gradient.
__device__ __forceinline__ void dense_backward(Row row, int samples) {
  int inputs = (int)row.inputs, outputs = (int)row.outputs;
  auto finish = [&](int input, int sample, REAL sum) {
    int i = input * samples + sample;
    row.out[i] = row.kind ? relu_backward_of(row.y[i], sum) : sum;
  };
  if (outputs % WIDE == 0 && aligned(row.weights)) {
    auto weights_of = [&](int input) { return pointed(AlongInputs{row.weights, {}}, input, inputs, outputs); };
    multiply(row.x, samples, outputs, inputs, weights_of, finish);
  } else {
    auto weights_of = [&](int input) { return pointed(OneByOne{row.weights, {}, 1}, input, inputs, outputs); };
    multiply(row.x, samples, outputs, inputs, weights_of, finish);
  }
}
