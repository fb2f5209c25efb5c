// What a program does to each number by itself, and to each sample: a thread has one.
//
// Floor: the bytes of operands and results, in shared memory, and one exponential or logarithm a number.
#include "columns.cuh"
#include "elementwise.cuh"
#include "norm.cuh"
#include "normal.cuh"
#include "philox.cuh"
#include "program.cuh"
#include "rows.cuh"

// ---- each number by itself ------------------------------------------------------------------------------------------

// out = f(x, y) for `inputs` numbers of each sample; y is x where there is no second operand. out may be either. a, b: the
// kind's constants.
__device__ __forceinline__ void elementwise(Row row, int samples) {
  with_kind(row.kind, (REAL)row.a, (REAL)row.b, [&](auto f) {
    for_items((int)row.inputs * samples, [&](int i) { row.out[i] = f(row.x[i], row.y[i]); });
  });
}

// The words of a sample's features, four by four: word is the seed, kind the layer, above whose 32 bits stands what row of
// its batch the first sample is.
__device__ __forceinline__ Words words_of(Row row, u64 step, int sample, int group) {
  u32 first = (u32)((u64)row.kind >> 32);
  return philox(first + (u32)sample, (u32)group, (u32)step, high_word(step, (u32)row.kind), (u64)row.word);
}

// outputs: the threshold; a: the scale; y: counters. A thread has one Philox counter, which is four features of a sample.
__device__ __forceinline__ void dropout(Row row, int samples) {
  int groups = ((int)row.inputs + 3) / 4;
  u64 step = (u64)reinterpret_cast<const i64*>(row.y)[STEP];
  REAL scale = (REAL)row.a;
  for_items(groups * samples, [&](int item) {
    int group = item / samples, sample = item - group * samples;
    Words words = words_of(row, step, sample, group);
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (4 * group + k < row.inputs) {
        int i = (4 * group + k) * samples + sample;
        row.out[i] = dropped(row.x[i], words.at[k], (u32)row.outputs, scale);
      }
  });
}

// The same words as normal numbers, added to x; a: their standard deviation.
__device__ __noinline__ void gaussian_noise(Row row, int samples) {
  int groups = ((int)row.inputs + 3) / 4;
  u64 step = (u64)reinterpret_cast<const i64*>(row.y)[STEP];
  for_items(groups * samples, [&](int item) {
    int group = item / samples, sample = item - group * samples;
    Words words = words_of(row, step, sample, group);
    for_normals(words, [&](int k, double number) {
      int i = (4 * group + k) * samples + sample;
      if (4 * group + k < row.inputs) row.out[i] = row.x[i] + (REAL)(row.a * number);
    });
  });
}

// ---- each sample ----------------------------------------------------------------------------------------------------

// The numbers of one sample: a row as rows.cuh has it, and a team of one thread.
struct Sample {
  REAL* first;
  int samples;
  __device__ __forceinline__ REAL& operator[](i64 j) const { return first[j * samples]; }
};

struct Alone {
  static constexpr int lane = 0, size = 1;
  template <class T, class Operator>
  __device__ __forceinline__ T reduce(T value, Operator) const {
    return value;
  }
};

// x: logits; y: classes, or distributions; out: the gradient; also: losses; hits or null; a: 1 / samples; b, c: bounds.
template <class TargetOf>
__device__ __forceinline__ void cross_entropy(const Row& row, int samples, TargetOf target_of) {
  Costs costs = {(REAL)row.a, (REAL)row.b, (REAL)row.c};
  for_items(samples, [&](int s) {
    Sample x = {row.x + s, samples}, gradient = {row.out + s, samples};
    auto target = target_of(s);
    row.also[s] = softmax_cross_entropy_row(Alone(), x, target, gradient, costs, row.inputs, [](i64, REAL) {});
    if (row.hits) row.hits[s] = target.share(largest(Alone(), x, row.inputs).place);
  });
}

// x: inputs; weights, biases: gamma, beta; also: what is normalized; hits: 1 over each standard deviation; a: epsilon.
__device__ __noinline__ void layer_norm(Row row, int samples) {
  for_items(samples, [&](int s) {
    Sample x = {row.x + s, samples}, y = {row.out + s, samples}, normalized = {row.also + s, samples};
    row.hits[s] = layer_norm_row(Alone(), x, row.weights, row.biases, y, (REAL)row.a, row.inputs,
                                 [&](i64 j, REAL number) { normalized[j] = number; });
  });
}

// x: what was normalized; hits: as above; y: the gradient.
__device__ __noinline__ void layer_norm_backward(Row row, int samples) {
  for_items(samples, [&](int s) {
    Sample normalized = {row.x + s, samples}, dy = {row.y + s, samples}, dx = {row.out + s, samples};
    layer_norm_backward_row(Alone(), normalized, row.hits[s], row.weights, dy, dx, row.inputs);
  });
}

__device__ __forceinline__ Label label_of(REAL label, i64 columns) {
  bool valid = label >= 0 && label < (REAL)columns;
  return Label{valid ? (i64)label : -1, valid};
}

// One operation that takes sample by sample.
__device__ __forceinline__ void each_sample(Row row, int samples) {
  auto at = [&](REAL* a, int s) { return Sample{a + s, samples}; };
  switch ((Op)row.op) {
    case Op::SOFTMAX:
      return for_items(samples, [&](int s) { softmax_row(Alone(), at(row.x, s), at(row.out, s), row.inputs); });
    case Op::SOFTMAX_BACKWARD:  // x: softmax's output; y: its gradient
      return for_items(samples, [&](int s) {
        softmax_backward_row(Alone(), at(row.x, s), at(row.y, s), at(row.out, s), row.inputs);
      });
    case Op::CROSS_ENTROPY:
      return cross_entropy(row, samples, [&](int s) { return label_of(row.y[s], row.inputs); });
    case Op::CROSS_ENTROPY_SOFT:
      return cross_entropy(row, samples, [&](int s) { return Distribution<Sample>{at(row.y, s)}; });
    case Op::ARGMAX:
      return for_items(samples, [&](int s) { row.out[s] = (REAL)largest(Alone(), at(row.x, s), row.inputs).place; });
    case Op::ONE_HOT:
      return for_items((int)row.outputs * samples, [&](int i) {
        row.out[i] = (REAL)(row.x[i % samples] == (REAL)(i / samples));
      });
    case Op::MEAN:  // times a
      return for_items(samples, [&](int s) {
        REAL total = 0;
        for (i64 j = 0; j < row.inputs; j++) total += at(row.x, s)[j];
        row.out[s] = total * (REAL)row.a;
      });
    case Op::WEIGH:  // x: `inputs` numbers of each sample; y: its weight
      return for_items((int)row.inputs * samples, [&](int i) { row.out[i] = weighed(row.x[i], row.y[i % samples]); });
    case Op::COLUMNS:  // kind numbers of each sample, of x from number `word` on, of out from number a on
      return for_items((int)row.kind * samples, [&](int i) {
        row.out[(i64)row.a * samples + i] = row.x[row.word * samples + i];
      });
    case Op::EMBED:  // weights [outputs, kind], by codes in number `word` of each sample; out from number a on
      return for_items((int)row.kind * samples, [&](int i) {
        i64 code = code_of(row.x[row.word * samples + i % samples], row.outputs), j = i / samples;
        row.out[(i64)row.a * samples + i] = code < 0 ? not_a_number() : row.weights[code * row.kind + j];
      });
    case Op::SCATTER:  // out [outputs, kind]: the gradient of these weights, from y, which is that of EMBED's out
      return for_items((int)(row.outputs * row.kind), [&](int i) {
        i64 code = i / row.kind, j = i % row.kind;
        double total = 0;
        for (int s = 0; s < samples; s++)
          if (code_of(row.x[row.word * samples + s], row.outputs) == code)
            total += (double)row.y[((i64)row.a + j) * samples + s];
        row.out[i] = (REAL)total;
      });
    case Op::LAYER_NORM: return layer_norm(row, samples);
    case Op::LAYER_NORM_BACKWARD: return layer_norm_backward(row, samples);
    default: __trap();  // no operation has this number
  }
}
