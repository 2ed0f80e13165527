/* Losses with their derivatives written out, row by row. The torch losses that they equal are in the agents' files, and
 * dqn_loss is in rlkit/engine/losses.py. */

static const float HALF_LOG_TWO_PI = 0.918938533f;

/* Properties of one row's action distribution. */
typedef struct {
    float log_prob, entropy, kl; /* `kl`: KL(old || new), 0 without old parameters */
} Evaluated;

KERNEL int64_t policy_loss_floats(const Head *head)
{
    return 4 * head->num_params; /* for one row's intermediate results: see the comment at each head's `evaluate_` */
}

/* Computes the probabilities of `size` logits, and their logarithms. */
KERNEL void softmax(const float *logits, int64_t size, float *probs, float *logs)
{
    float most = logits[0], sum = 0;
    for (int64_t i = 1; i < size; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < size; i++) {
        logs[i] = logits[i] - most;
        probs[i] = expf(logs[i]);
        sum += probs[i];
    }
    const float log_sum = logf(sum);
    for (int64_t i = 0; i < size; i++) {
        probs[i] /= sum;
        logs[i] -= log_sum;
    }
}

/* Evaluates a categorical head. Keeps for each choice its probability, and its log-probability less their mean, which
 * is minus the entropy; with old parameters also the old probability and log-probability. Returns false if an action is
 * out of range. */
KERNEL bool evaluate_categorical(const Head *head, const float *params, const int64_t *action, const float *old,
                                 float *kept, Evaluated *out)
{
    float *probs = kept, *centred = kept + head->num_params;
    float *old_probs = kept + 2 * head->num_params, *old_logs = kept + 3 * head->num_params;
    *out = (Evaluated){0};
    for (int64_t part = 0; part < head->num_parts; part++) {
        const int64_t size = head->part_sizes[part], chosen = action[part];
        if (chosen < 0 || chosen >= size)
            return false;
        softmax(params, size, probs, centred);
        out->log_prob += centred[chosen];
        float negative_entropy = 0;
        for (int64_t i = 0; i < size; i++)
            negative_entropy += probs[i] * centred[i];
        out->entropy -= negative_entropy;
        if (old) {
            softmax(old, size, old_probs, old_logs);
            for (int64_t i = 0; i < size; i++)
                out->kl += old_probs[i] * (old_logs[i] - centred[i]);
            old += size;
        }
        for (int64_t i = 0; i < size; i++)
            centred[i] -= negative_entropy;
        params += size, probs += size, centred += size, old_probs += size, old_logs += size;
    }
    return true;
}

KERNEL void differentiate_categorical(const Head *head, const int64_t *action, const float *kept, float d_log_prob,
                                      float d_entropy, float d_kl, float *d_params)
{
    const float *probs = kept, *centred = kept + head->num_params, *old_probs = kept + 2 * head->num_params;
    for (int64_t i = 0; i < head->num_params; i++) {
        d_params[i] = -probs[i] * d_log_prob - d_entropy * probs[i] * centred[i];
        if (d_kl != 0)
            d_params[i] += d_kl * (probs[i] - old_probs[i]);
    }
    for (int64_t part = 0; part < head->num_parts; part++) {
        d_params[action[part]] += d_log_prob;
        d_params += head->part_sizes[part];
    }
}

/* log(1 + e^x), for any x. */
INLINE float softplus(float x)
{
    return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
}

/* Evaluates a Bernoulli head. Keeps for each bit its probability, and with old parameters the old probability. */
KERNEL void evaluate_bernoulli(const Head *head, const float *params, const float *action, const float *old,
                               float *kept, Evaluated *out)
{
    float *probs = kept, *old_probs = kept + head->num_params;
    *out = (Evaluated){0};
    for (int64_t i = 0; i < head->num_params; i++) {
        const float soft = softplus(params[i]);
        probs[i] = expf(params[i] - soft);
        out->log_prob += params[i] * action[i] - soft;
        out->entropy += soft - probs[i] * params[i];
        if (old) {
            const float old_soft = softplus(old[i]);
            old_probs[i] = expf(old[i] - old_soft);
            out->kl += old_probs[i] * (old[i] - params[i]) + soft - old_soft;
        }
    }
}

KERNEL void differentiate_bernoulli(const Head *head, const float *params, const float *action, const float *kept,
                                    float d_log_prob, float d_entropy, float d_kl, float *d_params)
{
    const float *probs = kept, *old_probs = kept + head->num_params;
    for (int64_t i = 0; i < head->num_params; i++) {
        d_params[i] = d_log_prob * (action[i] - probs[i]) - d_entropy * params[i] * probs[i] * (1 - probs[i]);
        if (d_kl != 0)
            d_params[i] += d_kl * (probs[i] - old_probs[i]);
    }
}

/* Evaluates a Gaussian head. Keeps for each normal the action's z-score and the inverse standard deviation; with old
 * parameters also the shift of the mean, and the spread, which is the old variance plus the shift's square. Shift and
 * spread are in units of the new standard deviation. */
KERNEL void evaluate_gaussian(const Head *head, const float *params, const float *action, const float *old,
                              float *kept, Evaluated *out)
{
    const int64_t n = head->num_parts;
    float *z = kept, *inverse_std = kept + n, *shift = kept + 2 * n, *spread = kept + 3 * n;
    *out = (Evaluated){0};
    for (int64_t i = 0; i < n; i++) {
        const float mean = params[i], log_std = params[n + i];
        inverse_std[i] = expf(-log_std);
        z[i] = (action[i] - mean) * inverse_std[i];
        out->log_prob += -0.5f * z[i] * z[i] - log_std - HALF_LOG_TWO_PI;
        out->entropy += log_std + (0.5f + HALF_LOG_TWO_PI);
        if (old) {
            const float old_mean = old[i], old_log_std = old[n + i];
            shift[i] = (mean - old_mean) * inverse_std[i];
            spread[i] = expf(2 * (old_log_std - log_std)) + shift[i] * shift[i];
            out->kl += log_std - old_log_std + 0.5f * spread[i] - 0.5f;
        }
    }
}

KERNEL void differentiate_gaussian(const Head *head, const float *kept, float d_log_prob, float d_entropy,
                                   float d_kl, float *d_params)
{
    const int64_t n = head->num_parts;
    const float *z = kept, *inverse_std = kept + n, *shift = kept + 2 * n, *spread = kept + 3 * n;
    for (int64_t i = 0; i < n; i++) {
        d_params[i] = d_log_prob * z[i] * inverse_std[i];
        d_params[n + i] = d_log_prob * (z[i] * z[i] - 1) + d_entropy;
        if (d_kl != 0) {
            d_params[i] += d_kl * shift[i] * inverse_std[i];
            d_params[n + i] += d_kl * (1 - spread[i]);
        }
    }
}

KERNEL int64_t policy_loss(const Head *head, const PolicyLoss *loss, const PolicyRows *rows, float *workspace,
                           float *d_params, float *d_values, PolicyMetrics *metrics)
{
    const int64_t n = rows->rows;
    const float d_entropy = (float)(-loss->ent_coef / loss->count);
    const float d_kl = loss->objective == KL_PENALTY ? (float)(loss->kl_coef / loss->count) : 0;
    const float least_ratio = (float)(1 - loss->clip_coef), most_ratio = (float)(1 + loss->clip_coef);
    const float most_moved = (float)loss->clip_value_coef;
    double objective_sum = 0, entropy_sum = 0, kl_sum = 0, approx_kl_sum = 0, squares_sum = 0;
    int64_t outside = 0;
    for (int64_t row = 0; row < n; row++) {
        const float *params = rows->params + row * head->num_params;
        const float *old = d_kl != 0 ? rows->old_params + row * head->num_params : NULL;
        const int64_t *choices = (const int64_t *)rows->action + row * head->num_parts;
        const float *numbers = (const float *)rows->action + row * head->num_parts;
        Evaluated policy;
        if (head->kind == CATEGORICAL) {
            if (!evaluate_categorical(head, params, choices, old, workspace, &policy))
                return row;
        } else if (head->kind == BERNOULLI) {
            evaluate_bernoulli(head, params, numbers, old, workspace, &policy);
        } else {
            evaluate_gaussian(head, params, numbers, old, workspace, &policy);
        }

        const float advantage = rows->advantages[row];
        float objective, d_log_prob;
        if (loss->objective == LOG_PROB) {
            objective = policy.log_prob * advantage;
            d_log_prob = advantage;
        } else {
            const float log_ratio = policy.log_prob - rows->log_prob[row], ratio = expf(log_ratio);
            objective = d_log_prob = ratio * advantage;
            if (loss->objective == CLIPPED) {
                const float within = ratio < least_ratio ? least_ratio : ratio > most_ratio ? most_ratio : ratio;
                if (within * advantage < objective) {
                    objective = within * advantage; /* the clipped term is the smaller one, */
                    d_log_prob = 0;                 /* and it does not depend on the policy */
                }
            }
            approx_kl_sum += ratio - 1 - log_ratio;
            outside += fabsf(ratio - 1) > (float)loss->clip_coef;
        }
        objective_sum += objective;
        entropy_sum += policy.entropy;
        kl_sum += policy.kl;

        float *d_row = d_params + row * head->num_params;
        d_log_prob = (float)(d_log_prob / -loss->count);
        if (head->kind == CATEGORICAL)
            differentiate_categorical(head, choices, workspace, d_log_prob, d_entropy, d_kl, d_row);
        else if (head->kind == BERNOULLI)
            differentiate_bernoulli(head, params, numbers, workspace, d_log_prob, d_entropy, d_kl, d_row);
        else
            differentiate_gaussian(head, workspace, d_log_prob, d_entropy, d_kl, d_row);

        const float value = rows->values[row], error = value - rows->returns[row];
        float square = error * error;
        d_values[row] = (float)(error * (2 * loss->vf_coef / n));
        if (isfinite(most_moved)) {
            const float moved = value - rows->old_values[row];
            const float within = moved < -most_moved ? -most_moved : moved > most_moved ? most_moved : moved;
            const float clipped_error = rows->old_values[row] + within - rows->returns[row];
            if (moved != within && clipped_error * clipped_error > square) {
                square = clipped_error * clipped_error;
                d_values[row] = 0;
            }
        }
        squares_sum += square;
    }
    metrics->policy_loss = (loss->objective == KL_PENALTY ? loss->kl_coef * kl_sum - objective_sum : -objective_sum) /
                           loss->count;
    metrics->value_loss = squares_sum / n;
    metrics->entropy = entropy_sum / n;
    metrics->approx_kl = approx_kl_sum / n;
    metrics->clip_fraction = (double)outside / n;
    return -1;
}

KERNEL int64_t td_loss(int64_t rows, int64_t actions, const float *q_values, const int64_t *action,
                       const float *targets, const float *weights, bool huber, float *d_q_values, float *td_errors,
                       double *loss)
{
    double sum = 0;
    memset(d_q_values, 0, rows * actions * sizeof(float));
    for (int64_t row = 0; row < rows; row++) {
        if (action[row] < 0 || action[row] >= actions)
            return row;
        const float error = targets[row] - q_values[row * actions + action[row]];
        float slope = 2 * error, value = error * error;
        if (huber) {
            slope = error < -1 ? -1 : error > 1 ? 1 : error;
            value = slope * (error - 0.5f * slope);
        }
        const float weight = weights ? weights[row] : 1;
        td_errors[row] = error;
        d_q_values[row * actions + action[row]] = slope * weight / -(float)rows;
        sum += value * weight;
    }
    *loss = sum / rows;
    return -1;
}
