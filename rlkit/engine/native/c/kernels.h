/* The native engine's arithmetic: what rlkit/engine/native/actor_critic.py, optim.py, policy_gradient.py and q.py do in
 * NumPy, for the same arrays and with the same results up to rounding.
 *
 * Plain C on memory of the caller: nothing here allocates, locks, keeps state or knows Python; module.c checks all sizes
 * before it calls. Matrices are dense, one row after the other, of float32. Not-a-number comes out where it went in.
 *
 * Functions marked AVX2 use instructions that not every x86-64 processor has: module.c asks before it calls any.
 */
#ifndef RLKIT_KERNELS_H
#define RLKIT_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) AVX2

/* ---- matmul.c ---- */

/* What happens to each element of a product before it is stored. */
typedef enum {
    STORE,           /* nothing */
    TANH,            /* its hyperbolic tangent */
    RELU,            /* nothing below zero */
    TANH_DERIVATIVE, /* times 1 - h^2, where h is the element of `outputs` at the same place */
    RELU_DERIVATIVE, /* times [h > 0] */
} Finish;

/* c = finish(a b + bias); with `add`, c + a b. Element (i, k) of `a` is at a[i * a_row + k * a_step], (k, j) of `b` at
 * b[k * b_step + j * b_column], so that either may be a transposed view; `c`, (rows, columns), is dense. */
typedef struct {
    int64_t rows, columns, depth;
    const float *a;
    int64_t a_row, a_step;
    const float *b;
    int64_t b_step, b_column;
    float *c;
    const float *bias; /* one number per column, or NULL */
    bool add;
    Finish finish;
    const float *outputs; /* for the derivatives: of the shape of `c` */
} Product;

/* How many floats `matmul` needs to rearrange a transposed `a` of so many rows. */
int64_t packing_floats(int64_t rows);

/* `packing` may be NULL where a_step is 1. */
AVX2 void matmul(const Product *product, float *packing);

/* ---- mlp.c ---- */

typedef struct {
    int64_t inputs, outputs;
    const float *weights; /* (outputs, inputs), as torch.nn.Linear has them */
    const float *biases;  /* (outputs,) */
    float *d_weights, *d_biases;
} Layer;

typedef struct {
    int64_t num_layers;
    Layer *layers;
    Finish activation; /* of all layers but the last: STORE (none), TANH or RELU */
} Mlp;

/* How many floats of working memory a batch of so many rows needs. */
int64_t mlp_workspace_floats(const Mlp *mlp, int64_t rows);

/* `outputs`, (rows, last layer's outputs), of `x`, (rows, first layer's inputs); leaves in `workspace` what
 * `mlp_backward` needs. */
AVX2 void mlp_forward(const Mlp *mlp, int64_t rows, const float *x, float *outputs, float *workspace);

/* Writes d loss / d weights and biases into the layers, from d loss / d outputs of the last `mlp_forward`. */
AVX2 void mlp_backward(const Mlp *mlp, int64_t rows, const float *x, const float *d_outputs, float *workspace);

/* ---- optimizers.c ---- */

/* Scales the gradient down to `max_norm` where its norm is larger; returns the norm before. */
AVX2 double clip_global_norm(int64_t size, float *gradient, double max_norm);

/* Adam (Kingma & Ba 2015) as torch.optim.Adam computes it; `steps` counts this one. */
AVX2 void adam(int64_t size, float *restrict parameters, const float *restrict gradient, float *restrict exp_avg,
               float *restrict exp_avg_sq, int64_t steps, double learning_rate, double beta1, double beta2, double eps);

/* RMSProp (Tieleman & Hinton 2012) as torch.optim.RMSprop computes it: eps is added to the root, not below it. */
AVX2 void rmsprop(int64_t size, float *restrict parameters, const float *restrict gradient, float *restrict square_avg,
                  double learning_rate, double alpha, double eps);

/* ---- losses.c ---- */

typedef enum {
    CATEGORICAL, /* a softmax over each part of the logits; actions: int64, one per part */
    BERNOULLI,   /* a coin for each logit; actions: float, 0 or 1 */
    GAUSSIAN,    /* means, then logarithms of standard deviations; actions: float */
} HeadKind;

typedef struct {
    HeadKind kind;
    int64_t num_params;
    int64_t num_parts; /* of an action: softmaxes, coins or normals */
    const int64_t *part_sizes; /* of the softmaxes */
} Head;

typedef enum {
    LOG_PROB,     /* log-probability times advantage: REINFORCE, A2C */
    CLIPPED,      /* the smaller of ratio times advantage and of the same with the ratio within 1 +- clip_coef: PPO */
    KL_PENALTY,   /* ratio times advantage, less kl_coef times KL(old || new) */
} Objective;

typedef struct {
    Objective objective;
    double clip_coef, kl_coef;
    double clip_value_coef; /* how far values may move from the old ones; infinity: as far as they like */
    double ent_coef, vf_coef;
    double count; /* what the sums of policy and entropy terms are divided by; values: always by the rows */
} PolicyLoss;

/* One row per transition, as in rlkit/buffers/batch.py; what an objective does not need may be NULL. */
typedef struct {
    int64_t rows;
    const float *params, *values;   /* what the network says now */
    const void *action;
    const float *advantages, *returns;
    const float *log_prob, *old_params; /* what it said when the actions were taken */
    const float *old_values;
} PolicyRows;

typedef struct {
    double policy_loss, value_loss, entropy, approx_kl, clip_fraction;
} PolicyMetrics;

/* How many floats of working memory `policy_loss` needs. */
int64_t policy_loss_floats(const Head *head);

/* d loss / d params, (rows, num_params), and d loss / d values, (rows,), of the losses in agents/ppo.py, a2c.py and
 * reinforce.py. Returns the first row whose action the head does not have, or -1. */
AVX2 int64_t policy_loss(const Head *head, const PolicyLoss *loss, const PolicyRows *rows, float *workspace,
                         float *d_params, float *d_values, PolicyMetrics *metrics);

/* d loss / d action values, (rows, actions), and the TD errors, (rows,), of the loss in agents/dqn.py; `weights` may be
 * NULL. Returns the first row whose action there is not, or -1. */
AVX2 int64_t td_loss(int64_t rows, int64_t actions, const float *q_values, const int64_t *action, const float *targets,
                     const float *weights, bool huber, float *d_q_values, float *td_errors, double *loss);

#endif
