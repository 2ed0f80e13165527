/* The arithmetic of the native engine: what torch computes by autograd, with the derivatives written out.
 *
 * The kernels are plain C on memory that the caller owns. They do not allocate, lock, keep state or know of Python;
 * module.c checks all sizes before it calls them. Matrices are dense float32, one row after the other. NaNs in the
 * inputs stay visible in the outputs.
 *
 * There is one source for all vector instructions: avx2.c, avx512.c and neon.c each say how wide a vector is, and then
 * include every kernel by way of vectors.h. Each makes one table, `Kernels`, of which module.c picks the one for this
 * processor.
 */
#ifndef RLKIT_KERNELS_H
#define RLKIT_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

/* ---- networks ---- */

/* The function that is applied to each element of a product before it is stored. */
typedef enum {
    STORE,           /* none: the element is stored as it is */
    TANH,            /* the hyperbolic tangent */
    RELU,            /* max(0, x) */
    TANH_DERIVATIVE, /* x * (1 - h^2), where h is the element of `outputs` with the same row and column */
    RELU_DERIVATIVE, /* x * [h > 0] */
} Finish;

/* The function between hidden layers: torch's of that name, GELU by the error function. */
typedef enum { WITHOUT, WITH_TANH, WITH_RELU, WITH_ELU, WITH_SILU, WITH_GELU, WITH_LEAKY_RELU } Activation;

typedef struct {
    int64_t inputs, outputs;
    const float *weights; /* (outputs, inputs), as torch.nn.Linear has them */
    const float *biases;  /* (outputs,) */
    float *d_weights, *d_biases;
    const float *gain, *shift; /* (outputs,): of a layer normalisation before the activation; NULL: there is none */
    float *d_gain, *d_shift;
} Layer;

typedef struct {
    int64_t num_layers;
    Layer *layers;
    Activation activation; /* of all layers but the last, which has no normalisation either */
    bool in_passes;        /* true: hidden layers are finished by activations.c, and not tile by tile */
} Mlp;

/* ---- losses ---- */

typedef enum {
    CATEGORICAL, /* a softmax over each part of the logits; actions: int64, one per part */
    BERNOULLI,   /* an independent bit for each logit; actions: float, 0 or 1 */
    GAUSSIAN,    /* means, then logarithms of standard deviations; actions: float */
} HeadKind;

typedef struct {
    HeadKind kind;
    int64_t num_params;
    int64_t num_parts;         /* dimensions of an action: softmaxes, bits or normals */
    const int64_t *part_sizes; /* number of logits of each softmax */
} Head;

typedef enum {
    LOG_PROB,     /* log-probability times advantage: REINFORCE, A2C */
    CLIPPED,      /* PPO: the smaller of ratio * advantage and clipped ratio * advantage; clipped to 1 +- clip_coef */
    KL_PENALTY,   /* ratio times advantage, less kl_coef times KL(old || new) */
} Objective;

typedef struct {
    Objective objective;
    double clip_coef, kl_coef;
    double clip_value_coef; /* bound on a value's move from the old value; infinity: no bound */
    double ent_coef, vf_coef;
    double count; /* divisor of the sums of policy and entropy terms; that of the values' sum is the number of rows */
} PolicyLoss;

/* A batch with one row per transition, as in rlkit/buffers/batch.py. Arrays that the objective does not need may be
 * NULL. */
typedef struct {
    int64_t rows;
    const float *params, *values; /* the network's current outputs */
    const void *action;
    const float *advantages, *returns;
    const float *log_prob, *old_params, *old_values; /* those of the policy and critic that took the actions */
} PolicyRows;

typedef struct {
    double policy_loss, value_loss, entropy, approx_kl, clip_fraction;
} PolicyMetrics;

/* ---- the kernels for one kind of vector instructions ---- */

typedef struct {
    const char *name; /* of the instructions, as RLKIT_SIMD has it */

    /* Number of floats of working memory for a batch of so many rows. */
    int64_t (*mlp_workspace_floats)(const Mlp *mlp, int64_t rows);

    /* Computes `outputs`, (rows, last layer's outputs), from `x`, (rows, first layer's inputs). Keeps the activations of
     * hidden layers in `workspace`, for `mlp_backward` of the same table. */
    void (*mlp_forward)(const Mlp *mlp, int64_t rows, const float *x, float *outputs, float *workspace);

    /* Writes d loss / d weights and biases into the layers, given d loss / d outputs of the last `mlp_forward`. */
    void (*mlp_backward)(const Mlp *mlp, int64_t rows, const float *x, const float *d_outputs, float *workspace);

    /* Scales the gradient down if its norm exceeds `max_norm`; returns the norm before that. */
    double (*clip_global_norm)(int64_t size, float *gradient, double max_norm);

    /* Takes one step of Adam (Kingma & Ba 2015) as torch.optim.Adam computes it; `steps` is its number, from 1 on. */
    void (*adam)(int64_t size, float *restrict parameters, const float *restrict gradient, float *restrict exp_avg,
                 float *restrict exp_avg_sq, int64_t steps, double learning_rate, double beta1, double beta2,
                 double eps);

    /* Takes one step of RMSProp (Tieleman & Hinton 2012) as torch.optim.RMSprop does: eps is added outside of the
     * root. */
    void (*rmsprop)(int64_t size, float *restrict parameters, const float *restrict gradient,
                    float *restrict square_avg, double learning_rate, double alpha, double eps);

    /* Number of floats of working memory that `policy_loss` needs. */
    int64_t (*policy_loss_floats)(const Head *head);

    /* Computes d loss / d params, (rows, num_params), and d loss / d values, (rows,), of the policy-gradient losses.
     * The torch losses that these equal are ppo_loss in agents/ppo.py, a2c_loss in agents/a2c.py and reinforce_loss in
     * agents/reinforce.py. Returns the first row whose action is out of the head's range, or -1. */
    int64_t (*policy_loss)(const Head *head, const PolicyLoss *loss, const PolicyRows *rows, float *workspace,
                           float *d_params, float *d_values, PolicyMetrics *metrics);

    /* Computes d loss / d action values, (rows, actions), the TD errors, (rows,), and the loss. The torch loss that
     * this equals is dqn_loss in rlkit/engine/losses.py. `weights` may be NULL. Returns the first row whose action is
     * out of range, or -1. */
    int64_t (*td_loss)(int64_t rows, int64_t actions, const float *q_values, const int64_t *action,
                       const float *targets, const float *weights, bool huber, float *d_q_values, float *td_errors,
                       double *loss);
} Kernels;

/* Those that this architecture can have; whether this processor does is another question. */
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

#endif
