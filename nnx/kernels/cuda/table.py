"""Table of the CUDA kernels: what each takes and does. Tests hold it to the `.cu` files."""

from __future__ import annotations

from nnx.kernels.cuda.formulas import signatures
from nnx.kernels.cuda.kernel import Kernel
from nnx.kernels.elementwise import FUNCTIONS
from nnx.kernels.losses import LOSSES

_STATE = "const double* hyper, const long long* counters, long long n"
_FUSED = "REAL* losses, REAL* probabilities, REAL* gradient, long long rows, long long columns, REAL low, REAL high"
_SHAPE = "long long rows, long long columns"
_INTO = "long long out_width, long long out_first"

_TABLE = (
    # ---- dense -------------------------------------------------------------------------------------------------------
    Kernel(
        "product",
        "dense.cu",
        "const REAL* a, const REAL* b, const REAL* bias, REAL* c, long long m, long long n, long long k, "
        "int a_transposed, int b_transposed, int activation",
        "c [m, n] = activation(a [m, k] @ b [k, n] + bias [n]); bias or null. With grid.y > 1, c [grid.y, m, n] "
        "holds shares of the sum, without bias and activation, which column_sums adds up. "
        "a_transposed: a is stored [k, m]; b_transposed: b is stored [n, k].",
    ),
    Kernel(
        "bias_activation",
        "dense.cu",
        f"REAL* y, const REAL* bias, {_SHAPE}, int activation",
        "y = activation(y + bias [columns]) in place.",
    ),
    Kernel(
        "round_to_bfloat16",
        "bfloat16.cu",
        "const REAL* a, const REAL* b, unsigned short* a_rounded, unsigned short* b_rounded, long long a_count, "
        "long long b_count",
        "Both arrays as bfloat16, to nearest, ties to even.",
    ),
    Kernel(
        "column_sums",
        "dense.cu",
        f"const REAL* x, REAL* sums, {_SHAPE}",
        "sums [grid.y, columns]: the column sums of x, each of grid.y bands of rows by itself.",
    ),
    Kernel(
        "relu_backward_column_sums",
        "dense.cu",
        f"const REAL* y, const REAL* dy, REAL* dx, REAL* sums, {_SHAPE}",
        "dx = dy where y > 0, else 0; and the column sums of dx, as in column_sums. dx may be dy.",
    ),
    # ---- activations -------------------------------------------------------------------------------------------------
    *(
        Kernel(name, "activations.cu", signature, what)
        for row in FUNCTIONS
        for (name, signature), what in zip(
            signatures(row).items(),
            (f"y = {row.name}(x); y may be x.", f"dx = dy * {row.name}'(x); dx may be dy."),
            strict=True,
        )
    ),
    Kernel(
        "formula_each",
        "formula.cu",
        "const REAL* x, const REAL* y, REAL* out, long long n, REAL a",
        "out = a formula of the user's own of x, y and a; out may be x or y.",
    ),
    Kernel(
        "formula_mean",
        "formula.cu",
        f"const REAL* x, const REAL* y, REAL* means, {_SHAPE}, REAL a",
        "means [rows] = mean over columns of the same.",
    ),
    # ---- softmax -----------------------------------------------------------------------------------------------------
    *(
        Kernel(
            f"softmax_{team}",
            "softmax.cu",
            f"const REAL* x, REAL* y, {_SHAPE}",
            f"Softmax, a {team} a row; y may be x.",
        )
        for team in ("warp", "block")
    ),
    *(
        Kernel(
            f"softmax_backward_{team}",
            "softmax.cu",
            f"const REAL* y, const REAL* dy, REAL* dx, {_SHAPE}",
            f"dx = y * (dy - sum(y * dy)), a {team} a row; dx may be dy.",
        )
        for team in ("warp", "block")
    ),
    Kernel(
        "softmax_jacobian",
        "softmax.cu",
        f"const REAL* y, REAL* jacobian, {_SHAPE}",
        "jacobian [rows, columns, columns] = diagflat(y) - y @ y.T of each row.",
    ),
    # ---- cross-entropy -----------------------------------------------------------------------------------------------
    *(
        Kernel(
            f"cross_entropy_{kind}",
            "cross_entropy.cu",
            f"const REAL* p, const {pointer}* target, REAL* losses, {_SHAPE}",
            f"losses [rows] = -sum(target * log(clipped p)); target: {what}.",
        )
        for kind, pointer, what in (("labels", "long long", "[rows]"), ("distributions", "REAL", "[rows, columns]"))
    ),
    *(
        Kernel(
            f"cross_entropy_backward_{kind}",
            "cross_entropy.cu",
            f"const REAL* p, const {pointer}* target, REAL* dp, {_SHAPE}",
            f"dp = -target / clipped p / rows; target: {what}.",
        )
        for kind, pointer, what in (("labels", "long long", "[rows]"), ("distributions", "REAL", "[rows, columns]"))
    ),
    *(
        Kernel(
            f"softmax_cross_entropy_{kind}_{team}",
            "cross_entropy.cu",
            f"const REAL* logits, const {pointer}* target, {_FUSED}",
            f"losses, gradient (p - target) / rows and probabilities (or null), a {team} a row; target: {what}; "
            "low, high: see losses.bounds.",
        )
        for kind, pointer, what in (("labels", "long long", "[rows]"), ("distributions", "REAL", "[rows, columns]"))
        for team in ("warp", "block")
    ),
    # ---- other losses ------------------------------------------------------------------------------------------------
    *(
        Kernel(name, "losses.cu", signature, what)
        for row in LOSSES
        for (name, signature), what in zip(
            signatures(row).items(),
            (
                f"losses [rows] = mean over columns of {row.part}(x, t).",
                f"gradient = {row.slope}(x, t) * {row.factor} / n.",
            ),
            strict=True,
        )
    ),
    Kernel(
        "sigmoid_cross_entropy",
        "losses.cu",
        f"const REAL* logits, const REAL* target, {_FUSED}",
        "losses, gradient (p - target) / (rows columns) and probabilities (or null); low, high: see losses.bounds.",
    ),
    # ---- one training step -------------------------------------------------------------------------------------------
    Kernel(
        "dropout",
        "dropout.cu",
        f"const REAL* x, REAL* y, {_SHAPE}, const long long* counters, unsigned long long seed, "
        "unsigned long long layer, unsigned int threshold, REAL scale",
        "y = x * scale where the element's random word is at least threshold, else 0; y may be x.",
    ),
    Kernel(
        "gaussian_noise",
        "noise.cu",
        f"const REAL* x, REAL* y, {_SHAPE}, const long long* counters, unsigned long long seed, "
        "unsigned long long layer, double stddev",
        "y = x plus normal numbers of that standard deviation; y may be x.",
    ),
    *(
        Kernel(
            f"gather_{kind}",
            "gather.cu",
            f"const {pointer}* source, const long long* order, const long long* counters, {pointer}* out, {_SHAPE}, "
            "long long available, long long places",
            "out [rows, columns] = source[order[counters[CURSOR] + row]], of `available` rows by an order of `places`; "
            "for what is not there the nearest that is.",
        )
        for kind, pointer in (("reals", "REAL"), ("integers", "long long"))
    ),
    *(
        Kernel(
            f"tally_{metric}",
            "step.cu",
            f"const REAL* losses, const REAL* weights, {operands}double* parts, double* stats, {shape}",
            f"stats[LOSS] = mean of losses{what}; each row counts weights [rows] times, once if they are null. With "
            "several blocks into parts [grid.x, 2], for tally_total.",
        )
        for metric, operands, shape, what in (
            ("losses", "", "long long rows", "; stats[HITS] stays"),
            (
                "labels",
                "const REAL* outputs, const long long* target, ",
                _SHAPE,
                "; stats[HITS] = rows whose largest output is the target's class",
            ),
            (
                "distributions",
                "const REAL* outputs, const REAL* target, ",
                _SHAPE,
                "; stats[HITS] = rows whose largest output is where the target's largest is",
            ),
            (
                "above",
                "const REAL* outputs, const REAL* target, ",
                f"{_SHAPE}, REAL threshold",
                "; stats[HITS] = share of columns where output > threshold is target > 0.5, over all rows",
            ),
            (
                "near",
                "const REAL* outputs, const REAL* target, ",
                f"{_SHAPE}, REAL tolerance",
                "; stats[HITS] = share of columns where |output - target| < tolerance, over all rows",
            ),
        )
    ),
    Kernel(
        "weigh",
        "step.cu",
        f"const REAL* x, const REAL* weights, REAL* y, {_SHAPE}",
        "y = x * weights [rows]; 0 where the weight is. y may be x.",
    ),
    Kernel(
        "tally_total",
        "step.cu",
        "const double* parts, double* stats, long long count, long long rows, int with_hits",
        "stats from the parts of count blocks.",
    ),
    Kernel(
        "end_step",
        "step.cu",
        "double* stats, const double* penalties, long long penalty_count, double* history, long long capacity, "
        "long long* counters, long long rows",
        "stats[PENALTY] = sum of penalties; history[DONE % capacity] = stats; counters += (1, rows, 1).",
    ),
    # ---- blocks of layers --------------------------------------------------------------------------------------------
    Kernel(
        "add",
        "columns.cu",
        "const REAL* x, const REAL* y, REAL* out, long long n",
        "out = x + y. out may be either.",
    ),
    Kernel(
        "copy_columns",
        "columns.cu",
        f"const REAL* x, REAL* y, {_SHAPE}, long long width, long long first, {_INTO}",
        "y [rows, out_width] from column out_first on = so many columns of x [rows, width] from `first` on.",
    ),
    *(
        Kernel(
            name,
            "columns.cu",
            f"const REAL* x, {operands}, {_SHAPE}, long long codes, long long width, long long column, {_INTO}",
            what,
        )
        for name, operands, what in (
            (
                "embed",
                "const REAL* w, REAL* y",
                "y from column out_first on = the row of w [codes, columns] that a column of x names; NaN for no code.",
            ),
            (
                "embed_gradients",
                "const REAL* dy, REAL* dw",
                "dw [codes, columns] = for each code the sum of its rows of dy, columns from out_first on.",
            ),
        )
    ),
    # ---- optimizers --------------------------------------------------------------------------------------------------
    *(
        Kernel(name, "optimizers.cu", f"REAL* p, const REAL* g, REAL* {moment}, {_STATE}", f"One step of {what}.")
        for name, moment, what in (
            ("sgd", "m", "gradient descent with momentum"),
            ("adagrad", "v", "AdaGrad"),
            ("rmsprop", "v", "RMSProp"),
        )
    ),
    Kernel(
        "adam",
        "optimizers.cu",
        f"REAL* p, const REAL* g, REAL* m, REAL* v, {_STATE}",
        "One step of Adam, with decoupled weight decay.",
    ),
    Kernel(
        "nadam",
        "optimizers.cu",
        f"REAL* p, const REAL* g, REAL* m, REAL* v, {_STATE}",
        "One step of Nadam, with decoupled weight decay.",
    ),
    Kernel(
        "amsgrad",
        "optimizers.cu",
        f"REAL* p, const REAL* g, REAL* m, REAL* v, REAL* u, {_STATE}",
        "One step of AMSGrad, with decoupled weight decay.",
    ),
    Kernel(
        "lion",
        "optimizers.cu",
        f"REAL* p, const REAL* g, REAL* m, {_STATE}",
        "One step of Lion, with decoupled weight decay.",
    ),
    Kernel(
        "accumulate",
        "optimizers.cu",
        f"REAL* p, const REAL* g, REAL* m, {_STATE}",
        "m += g, in an optimizer's place.",
    ),
    # ---- before and after an optimizer -------------------------------------------------------------------------------
    Kernel(
        "clip_squares",
        "clip.cu",
        "REAL* g, double* parts, long long n, REAL value",
        "Each number of g within +-value; the squares of each block's share into parts [grid.x].",
    ),
    Kernel(
        "clip_scale",
        "clip.cu",
        "REAL* g, const double* parts, long long count, long long n, double norm",
        "g *= norm / |g| where that is below 1, |g|**2 being the sum of parts [count].",
    ),
    Kernel("collect", "clip.cu", "REAL* g, REAL* m, long long n", "g += m; m = 0."),
    Kernel(
        "average",
        "clip.cu",
        "REAL* a, const REAL* p, const long long* counters, long long n, double decay, long long since",
        "a += (p - a) * (1 - decay) / (1 - decay**t), t steps after step `since`.",
    ),
    # ---- regularization ----------------------------------------------------------------------------------------------
    Kernel(
        "regularize",
        "regularize.cu",
        "const REAL* w, REAL* dw, double* parts, double* penalty, long long n, double l1, double l2",
        "dw += l1 sign(w) + 2 l2 w; penalty = l1 sum|w| + l2 sum w**2. With several blocks into parts [grid.x].",
    ),
    Kernel(
        "regularize_total",
        "regularize.cu",
        "const double* parts, double* penalty, long long count",
        "penalty = the sum of the parts of count blocks.",
    ),
    # ---- normalization -----------------------------------------------------------------------------------------------
    Kernel(
        "product_column_sums",
        "dense.cu",
        f"const REAL* x, const REAL* y, REAL* sums, {_SHAPE}",
        "The column sums of x * y, as in column_sums.",
    ),
    *(
        Kernel(
            f"layer_norm_{team}",
            "norm.cu",
            "const REAL* x, const REAL* gamma, const REAL* beta, REAL* normalized, REAL* scales, REAL* y, "
            f"{_SHAPE}, REAL epsilon",
            f"y = normalized * gamma + beta, a {team} a row; normalized, or null: x less its row's mean, times "
            "scales [rows], or null: 1 / sqrt(variance + epsilon).",
        )
        for team in ("warp", "block")
    ),
    *(
        Kernel(
            f"layer_norm_backward_{team}",
            "norm.cu",
            f"const REAL* normalized, const REAL* scales, const REAL* gamma, const REAL* dy, REAL* dx, {_SHAPE}",
            f"dx of layer_norm, a {team} a row; dx may be dy.",
        )
        for team in ("warp", "block")
    ),
    Kernel(
        "batch_moments",
        "norm.cu",
        f"const REAL* x, REAL* mean, REAL* variance, double* means, REAL* scales, {_SHAPE}, double epsilon, "
        "double momentum",
        "means [2, columns] of x, in two parts; scales = 1 / sqrt(variance + epsilon); running ones move towards them.",
    ),
    Kernel(
        "column_means",
        "norm.cu",
        f"const REAL* x, double* means, {_SHAPE}",
        "The mean of each column.",
    ),
    Kernel(
        "column_spreads",
        "norm.cu",
        f"const REAL* x, const double* means, double* spreads, {_SHAPE}",
        "The mean square of each column's numbers, less its mean.",
    ),
    Kernel(
        "pooled_moments",
        "norm.cu",
        "const double* pooled, const double* spreads, REAL* mean, REAL* variance, double* means, REAL* scales, "
        f"{_SHAPE}, double epsilon, double momentum",
        "What batch_moments writes, of that many rows, given the mean and the mean square about it of each column.",
    ),
    Kernel(
        "running_moments",
        "norm.cu",
        "const REAL* mean, const REAL* variance, double* means, REAL* scales, long long columns, double epsilon",
        "The same of running ones, which stay.",
    ),
    Kernel(
        "batch_norm",
        "norm.cu",
        "const REAL* x, const double* means, const REAL* scales, const REAL* gamma, const REAL* beta, "
        f"REAL* normalized, REAL* y, {_SHAPE}",
        "y = normalized * gamma + beta; normalized, or null: (x - means [2, columns]) * scales [columns]. y may be x.",
    ),
    Kernel(
        "batch_norm_backward",
        "norm.cu",
        "const REAL* normalized, const REAL* scales, const REAL* gamma, const REAL* dy, const REAL* dgamma, "
        f"const REAL* dbeta, REAL* dx, {_SHAPE}",
        "dx of batch_norm, by its own moments; dx may be dy.",
    ),
    Kernel(
        "fixed_norm_backward",
        "norm.cu",
        f"const REAL* scales, const REAL* gamma, const REAL* dy, REAL* dx, {_SHAPE}",
        "dx of batch_norm, by running moments; dx may be dy.",
    ),
    # ---- many steps at once ------------------------------------------------------------------------------------------
    Kernel(
        "program",
        "program.cu",
        "const long long* table, long long before, long long each, long long after, long long samples, long long steps",
        "Training steps of a small network, as program_table.py describes them, by one block.",
    ),
)
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _TABLE}
FILES: tuple[str, ...] = tuple(dict.fromkeys(kernel.file for kernel in _TABLE))
