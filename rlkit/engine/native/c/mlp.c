/* Forward and backward passes of linear layers with an activation after all but the last. */

enum {
    BLOCK_ROWS = 128, /* rows that go through all layers together, so that their activations stay in the cache */
    MIN_INPUTS = 32   /* inputs of a layer from which it pays to pick out its live units */
};

/* The working memory of a batch. It has the outputs of all hidden layers, one after the other; where these are finished
 * in passes, also what `activate` leaves for `differentiate`: as many inputs of activations, and a scale for each row of
 * each layer. Then it has room for one block of rows: for d loss / d outputs of two layers, for the live part of one
 * layer (see `LivePart`), and for the `packing` of `matmul`. */

KERNEL int64_t widest_hidden(const Mlp *mlp)
{
    int64_t widest = 0;
    for (int64_t l = 0; l + 1 < mlp->num_layers; l++)
        if (mlp->layers[l].outputs > widest)
            widest = mlp->layers[l].outputs;
    return widest;
}

KERNEL int64_t hidden_floats(const Mlp *mlp, int64_t rows)
{
    int64_t floats = 0;
    for (int64_t l = 0; l + 1 < mlp->num_layers; l++)
        floats += rows * mlp->layers[l].outputs;
    return floats;
}

/* Number of floats that passes keep, beside the outputs of hidden layers. */
KERNEL int64_t kept_floats(const Mlp *mlp, int64_t rows)
{
    return mlp->in_passes ? hidden_floats(mlp, rows) + rows * (mlp->num_layers - 1) : 0;
}

KERNEL int64_t block_rows(int64_t rows)
{
    return rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
}

KERNEL int64_t live_part_floats(const Mlp *mlp, int64_t rows)
{
    int64_t most = 0;
    for (int64_t l = 0; l + 1 < mlp->num_layers && mlp->activation == WITH_RELU; l++) {
        const Layer *layer = mlp->layers + l;
        const int64_t floats = layer->outputs * (2 + block_rows(rows) + layer->inputs);
        if (floats > most)
            most = floats;
    }
    return most;
}

KERNEL int64_t mlp_workspace_floats(const Mlp *mlp, int64_t rows)
{
    const int64_t widest = widest_hidden(mlp), last = mlp->layers[mlp->num_layers - 1].outputs;
    return hidden_floats(mlp, rows) + kept_floats(mlp, rows) + 2 * block_rows(rows) * widest +
           live_part_floats(mlp, rows) + packing_floats(widest > last ? widest : last);
}

/* Computes the outputs of `rows` rows from `first` on; `workspace` is laid out for a batch of `all` rows. */
KERNEL void forward_block(const Mlp *mlp, int64_t all, int64_t first, int64_t rows, const float *x, float *outputs,
                          float *workspace)
{
    static const Finish finishes[] = {[WITHOUT] = STORE, [WITH_TANH] = TANH, [WITH_RELU] = RELU};
    const int64_t hidden = hidden_floats(mlp, all);
    float *scales = workspace + 2 * hidden + first;
    for (int64_t l = 0; l < mlp->num_layers; l++) {
        const Layer *layer = mlp->layers + l;
        const bool last = l + 1 == mlp->num_layers, passes = mlp->in_passes && !last;
        float *y = (last ? outputs : workspace) + first * layer->outputs;
        const Product product = { /* y = activation(x weights^T + biases) */
            .rows = rows,
            .columns = layer->outputs,
            .depth = layer->inputs,
            .a = l > 0 ? x : x + first * layer->inputs,
            .a_row = layer->inputs,
            .a_step = 1,
            .b = layer->weights,
            .b_step = 1,
            .b_column = layer->inputs,
            .c = passes ? y + hidden : y,
            .bias = layer->biases,
            .finish = last || passes ? STORE : finishes[mlp->activation],
        };
        matmul(&product, NULL);
        if (passes)
            activate(layer, mlp->activation, rows, y + hidden, scales + l * all, y);
        if (!last)
            workspace += all * layer->outputs;
        x = y;
    }
}

KERNEL void mlp_forward(const Mlp *mlp, int64_t rows, const float *x, float *outputs, float *workspace)
{
    for (int64_t first = 0; first < rows; first += BLOCK_ROWS)
        forward_block(mlp, rows, first, block_rows(rows - first), x, outputs, workspace);
}

KERNEL void sum_rows(const float *matrix, int64_t rows, int64_t columns, bool add, float *restrict sums)
{
    if (!add)
        memset(sums, 0, columns * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += matrix[i * columns + j];
}

/* The live part of a layer: the units whose d loss / d output is nonzero in some row. Units whose ReLU is off in every
 * row are not live, and there are often many. Leaving them out does not change the results, and saves much time. */
typedef struct {
    int64_t units;
    int32_t *numbers; /* indices of the live units in the layer */
    float *d_y;       /* (rows, units) */
    float *weights;   /* (units, inputs); used for their derivatives before that */
} LivePart;

/* Returns true if the live units are so few that leaving out the others pays. */
KERNEL bool are_few(int64_t units, const Layer *layer)
{
    return 8 * units <= 7 * layer->outputs;
}

KERNEL LivePart live_part(const Layer *layer, int64_t rows, const float *d_y, float *workspace)
{
    const int64_t columns = layer->outputs;
    int32_t *restrict numbers = (int32_t *)workspace, *restrict is_live = numbers + columns;
    memset(is_live, 0, columns * sizeof(int32_t));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            is_live[j] |= d_y[i * columns + j] != 0; /* NaN counts as live, too */
    int64_t units = 0;
    for (int64_t j = 0; j < columns; j++) {
        numbers[units] = (int32_t)j;
        units += is_live[j];
    }
    float *gathered = workspace + 2 * columns;
    if (are_few(units, layer))
        for (int64_t i = 0; i < rows; i++)
            for (int64_t n = 0; n < units; n++)
                gathered[i * units + n] = d_y[i * columns + numbers[n]];
    return (LivePart){units, numbers, gathered, gathered + rows * units};
}

KERNEL void gather_weights(const LivePart *part, const Layer *layer)
{
    for (int64_t n = 0; n < part->units; n++)
        memcpy(part->weights + n * layer->inputs, layer->weights + part->numbers[n] * layer->inputs,
               layer->inputs * sizeof(float));
}

/* Copies the derivatives of the live units' weights to their rows in the layer; those of all others become zero. */
KERNEL void scatter_d_weights(const LivePart *part, const Layer *layer, bool add)
{
    for (int64_t j = 0, n = 0; j < layer->outputs; j++) {
        float *restrict to = layer->d_weights + j * layer->inputs;
        if (n < part->units && part->numbers[n] == j) {
            const float *restrict from = part->weights + n++ * layer->inputs;
            for (int64_t k = 0; k < layer->inputs; k++)
                to[k] = add ? to[k] + from[k] : from[k];
        } else if (!add) {
            memset(to, 0, layer->inputs * sizeof(float));
        }
    }
}

/* Adds the contribution of `rows` rows from `first` on to the derivatives; the first block overwrites them. */
KERNEL void backward_block(const Mlp *mlp, int64_t all, int64_t first, int64_t rows, const float *x,
                           const float *d_outputs, float *workspace)
{
    static const Finish finishes[] = {[WITHOUT] = STORE, [WITH_TANH] = TANH_DERIVATIVE, [WITH_RELU] = RELU_DERIVATIVE};
    const int64_t hidden = hidden_floats(mlp, all), widest = block_rows(all) * widest_hidden(mlp);
    const float *scales = workspace + 2 * hidden + first;
    float *rest = workspace + hidden + kept_floats(mlp, all), *live_floats = rest + 2 * widest;
    float *deltas[2] = {rest, rest + widest};
    float *packing = live_floats + live_part_floats(mlp, all);
    const float *d_y = d_outputs + first * mlp->layers[mlp->num_layers - 1].outputs;
    const float *layer_inputs = workspace + hidden;
    for (int64_t l = mlp->num_layers - 1; l >= 0; l--) {
        const Layer *layer = mlp->layers + l;
        layer_inputs = l > 0 ? layer_inputs - all * layer->inputs : x;
        const float *inputs = layer_inputs + first * layer->inputs;
        sum_rows(d_y, rows, layer->outputs, first > 0, layer->d_biases);
        int64_t units = layer->outputs;
        LivePart live = {.units = units};
        if (mlp->activation == WITH_RELU && !mlp->in_passes && l + 1 < mlp->num_layers && layer->inputs >= MIN_INPUTS)
            live = live_part(layer, rows, d_y, live_floats);
        const bool in_part = are_few(live.units, layer);
        if (in_part) {
            units = live.units;
            d_y = live.d_y;
        }
        const Product d_weights = { /* d_y^T inputs */
            .rows = units,
            .columns = layer->inputs,
            .depth = rows,
            .a = d_y,
            .a_row = 1,
            .a_step = units,
            .b = inputs,
            .b_step = layer->inputs,
            .b_column = 1,
            .c = in_part ? live.weights : layer->d_weights,
            .add = !in_part && first > 0,
            .finish = STORE,
        };
        matmul(&d_weights, packing);
        if (in_part)
            scatter_d_weights(&live, layer, first > 0);
        if (l == 0)
            break;
        if (in_part)
            gather_weights(&live, layer);
        const Product d_inputs = { /* d_y weights, times the derivative of the activation that made these inputs */
            .rows = rows,
            .columns = layer->inputs,
            .depth = units,
            .a = d_y,
            .a_row = units,
            .a_step = 1,
            .b = in_part ? live.weights : layer->weights,
            .b_step = layer->inputs,
            .b_column = 1,
            .c = deltas[l % 2],
            .finish = mlp->in_passes ? STORE : finishes[mlp->activation],
            .outputs = mlp->in_passes ? NULL : inputs,
        };
        matmul(&d_inputs, packing);
        if (mlp->in_passes)
            differentiate(layer - 1, mlp->activation, rows, inputs + hidden, scales + (l - 1) * all, first > 0,
                          deltas[l % 2]);
        d_y = deltas[l % 2];
    }
}

KERNEL void mlp_backward(const Mlp *mlp, int64_t rows, const float *x, const float *d_outputs, float *workspace)
{
    int64_t first = 0;
    do { /* at least once: without rows, the derivatives have to be set to zero */
        backward_block(mlp, rows, first, block_rows(rows - first), x, d_outputs, workspace);
        first += BLOCK_ROWS;
    } while (first < rows);
}
