/* Forward and backward through linear layers with an activation after each but the last. */

#include <stddef.h>
#include <string.h>

#include "kernels.h"

/* The working memory of a batch: the outputs of all hidden layers one after the other, room for d loss / d outputs of
 * two layers, and what `matmul` needs to rearrange a transposed matrix. */

static int64_t widest_hidden(const Mlp *mlp)
{
    int64_t widest = 0;
    for (int64_t l = 0; l + 1 < mlp->num_layers; l++)
        if (mlp->layers[l].outputs > widest)
            widest = mlp->layers[l].outputs;
    return widest;
}

static int64_t hidden_floats(const Mlp *mlp, int64_t rows)
{
    int64_t floats = 0;
    for (int64_t l = 0; l + 1 < mlp->num_layers; l++)
        floats += rows * mlp->layers[l].outputs;
    return floats;
}

int64_t mlp_workspace_floats(const Mlp *mlp, int64_t rows)
{
    const int64_t widest = widest_hidden(mlp), last = mlp->layers[mlp->num_layers - 1].outputs;
    return hidden_floats(mlp, rows) + 2 * rows * widest + packing_floats(widest > last ? widest : last);
}

AVX2 void mlp_forward(const Mlp *mlp, int64_t rows, const float *x, float *outputs, float *workspace)
{
    for (int64_t l = 0; l < mlp->num_layers; l++) {
        const Layer *layer = mlp->layers + l;
        const bool last = l + 1 == mlp->num_layers;
        float *y = last ? outputs : workspace;
        const Product product = { /* y = activation(x weights^T + biases) */
            .rows = rows,
            .columns = layer->outputs,
            .depth = layer->inputs,
            .a = x,
            .a_row = layer->inputs,
            .a_step = 1,
            .b = layer->weights,
            .b_step = 1,
            .b_column = layer->inputs,
            .c = y,
            .bias = layer->biases,
            .finish = last ? STORE : mlp->activation,
        };
        matmul(&product, NULL);
        if (!last)
            workspace += rows * layer->outputs;
        x = y;
    }
}

AVX2 static void sum_rows(const float *matrix, int64_t rows, int64_t columns, float *restrict sums)
{
    memset(sums, 0, columns * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += matrix[i * columns + j];
}

AVX2 void mlp_backward(const Mlp *mlp, int64_t rows, const float *x, const float *d_outputs, float *workspace)
{
    const int64_t hidden = hidden_floats(mlp, rows), widest = rows * widest_hidden(mlp);
    float *deltas[2] = {workspace + hidden, workspace + hidden + widest}, *packing = workspace + hidden + 2 * widest;
    const float *inputs = workspace + hidden, *d_y = d_outputs;
    for (int64_t l = mlp->num_layers - 1; l >= 0; l--) {
        const Layer *layer = mlp->layers + l;
        inputs = l > 0 ? inputs - rows * layer->inputs : x;
        const Product d_weights = { /* d_y^T inputs */
            .rows = layer->outputs,
            .columns = layer->inputs,
            .depth = rows,
            .a = d_y,
            .a_row = 1,
            .a_step = layer->outputs,
            .b = inputs,
            .b_step = layer->inputs,
            .b_column = 1,
            .c = layer->d_weights,
            .finish = STORE,
        };
        matmul(&d_weights, packing);
        sum_rows(d_y, rows, layer->outputs, layer->d_biases);
        if (l == 0)
            break;
        const Finish derivatives[] = {[STORE] = STORE, [TANH] = TANH_DERIVATIVE, [RELU] = RELU_DERIVATIVE};
        const Product d_inputs = { /* d_y weights, through the activation that made these inputs */
            .rows = rows,
            .columns = layer->inputs,
            .depth = layer->outputs,
            .a = d_y,
            .a_row = layer->outputs,
            .a_step = 1,
            .b = layer->weights,
            .b_step = layer->inputs,
            .b_column = 1,
            .c = deltas[l % 2],
            .finish = derivatives[mlp->activation],
            .outputs = inputs,
        };
        matmul(&d_inputs, packing);
        d_y = deltas[l % 2];
    }
}
