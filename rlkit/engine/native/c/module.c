/* rlkit.engine.native.kernels: the Python module of the kernels. It checks the type, shape and memory order of every
 * array before a kernel sees it, so that a mistake is a ValueError, and releases the GIL while a kernel runs. The
 * interface is documented in rlkit/engine/native/kernels.pyi. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000 /* one build for Python 3.11 and later */
#include <Python.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* ---- vector instructions ---- */

/* Those that this processor has, the widest first, and the ones in use. Written while the module is imported and by
 * `use_simd`, both of which hold the GIL. */
static const Kernels *available[2];
static int num_available;
static const Kernels *kernels;

static void find_kernels(void)
{
    num_available = 0;
#if defined(__x86_64__)
    const bool has_fma = __builtin_cpu_supports("fma");
    if (has_fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        available[num_available++] = &avx512_kernels;
    if (has_fma && __builtin_cpu_supports("avx2"))
        available[num_available++] = &avx2_kernels;
#elif defined(__aarch64__)
    available[num_available++] = &neon_kernels;
#endif
}

static PyObject *native_available_simd(PyObject *module, PyObject *unused)
{
    PyObject *names = PyTuple_New(num_available);
    for (int i = 0; names && i < num_available; i++) {
        PyObject *name = PyUnicode_FromString(available[i]->name);
        if (!name || PyTuple_SetItem(names, i, name) < 0)
            Py_CLEAR(names);
    }
    return names;
}

static PyObject *native_simd(PyObject *module, PyObject *unused)
{
    return PyUnicode_FromString(kernels->name);
}

static PyObject *native_use_simd(PyObject *module, PyObject *name)
{
    const char *asked = PyUnicode_AsUTF8AndSize(name, NULL);
    for (int i = 0; asked && i < num_available; i++)
        if (strcmp(asked, available[i]->name) == 0) {
            kernels = available[i];
            return Py_NewRef(Py_None);
        }
    return asked ? PyErr_Format(PyExc_ValueError, "this processor cannot compute with '%s'", asked) : NULL;
}

/* ---- arrays ---- */

typedef enum { READ, WRITE } Access;

/* Takes a view of a dense array. `format` is the letter of its type, such as "f" for float32. Negative numbers in
 * `shape` are filled in, others are checked. Returns true on success; on failure a Python exception is set, and there
 * is nothing to release. */
static bool take(PyObject *array, Py_buffer *view, const char *name, char format, int dimensions, int64_t *shape,
                 Access access)
{
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (access == WRITE ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(array, view, flags) != 0)
        return false;
    const char *given = view->format ? view->format : "B";
    const bool is_int64 = strlen(given) == 1 && strchr("lq", given[0]) && view->itemsize == 8;
    if (!(format == 'q' ? is_int64 : strlen(given) == 1 && given[0] == format)) {
        PyErr_Format(PyExc_ValueError, "%s: elements of type '%s', expected %s", name, given,
                     format == 'q' ? "int64" : format == 'f' ? "float32" : "float64");
        goto failed;
    }
    if (view->ndim != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s: %d dimensions, expected %d", name, view->ndim, dimensions);
        goto failed;
    }
    for (int i = 0; i < dimensions; i++) {
        if (shape[i] >= 0 && shape[i] != view->shape[i]) {
            PyErr_Format(PyExc_ValueError, "%s: dimension %d is %zd, expected %lld", name, i, view->shape[i],
                         (long long)shape[i]);
            goto failed;
        }
        shape[i] = view->shape[i];
    }
    return true;
failed:
    PyBuffer_Release(view);
    return false;
}

/* The views that a call has taken, which are all released at its end, whether it succeeds or fails. */
typedef struct {
    Py_buffer taken[12];
    int count;
} Views;

static void *take_into(Views *views, PyObject *array, const char *name, char format, int dimensions, int64_t *shape,
                       Access access)
{
    Py_buffer *view = views->taken + views->count;
    if (!take(array, view, name, format, dimensions, shape, access))
        return NULL;
    views->count++;
    return view->buf;
}

static float *take_floats(Views *views, PyObject *array, const char *name, int64_t size, Access access)
{
    int64_t shape[1] = {size};
    return take_into(views, array, name, 'f', 1, shape, access);
}

static void release(Views *views)
{
    while (views->count > 0)
        PyBuffer_Release(views->taken + --views->count);
}

static bool expect_tuple(PyObject *given, const char *name)
{
    if (!PyTuple_Check(given))
        PyErr_Format(PyExc_TypeError, "%s: expected a tuple", name);
    return PyTuple_Check(given);
}

static bool expect_arguments(const char *function, Py_ssize_t given, Py_ssize_t expected)
{
    if (given != expected)
        PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, %zd given", function, expected, given);
    return given == expected;
}

/* ---- MLP ---- */

typedef struct {
    PyObject_HEAD
    const Kernels *kernels; /* those in use when the MLP was made: the working memory is laid out for them */
    Mlp mlp;
    Py_buffer *views; /* of weights, biases, gains and shifts and their derivatives: at most eight per layer */
    int num_views;
    float *workspace;
    int64_t workspace_floats;
    int64_t rows;   /* rows of the last forward pass; -1 before the first one */
    bool computing; /* true while a thread computes */
} MlpObject;

/* Finds the activation of that name; if there is none, sets an exception. */
static bool take_activation(const char *name, Activation *activation)
{
    static const char *const names[] = {"identity", "tanh", "relu", "elu", "silu", "gelu", "leaky_relu"};
    for (int i = 0; i < 7; i++)
        if (strcmp(name, names[i]) == 0) {
            *activation = (Activation)i;
            return true;
        }
    PyErr_Format(PyExc_ValueError,
                 "activation '%s': expected tanh, relu, elu, silu, gelu, leaky_relu or identity", name);
    return false;
}

/* Takes the arrays of one layer: weights, biases and their derivatives, and of a normalisation, if it has one, gain and
 * shift and their derivatives. `inputs` is the width that it must have, or -1. */
static bool take_layer(MlpObject *self, PyObject *given, Layer *layer, int64_t inputs)
{
    static const char *const titles[] = {"weights", "biases", "weight gradients", "bias gradients",
                                         "gain",    "shift",  "gain gradients",   "shift gradients"};
    if (!expect_tuple(given, "a layer"))
        return false;
    const Py_ssize_t count = PyTuple_Size(given);
    if (count != 4 && count != 8) {
        PyErr_Format(PyExc_ValueError, "a layer: %zd arrays, expected 4, or 8 with a normalisation", count);
        return false;
    }
    const Py_buffer *taken = self->views + self->num_views;
    int64_t shape[2] = {-1, inputs};
    for (int i = 0; i < count; i++) {
        const bool matrix = i == 0 || i == 2, writes = i == 2 || i == 3 || i >= 6;
        if (!take(PyTuple_GetItem(given, i), self->views + self->num_views, titles[i], 'f', matrix ? 2 : 1, shape,
                  writes ? WRITE : READ))
            return false;
        self->num_views++;
    }
    *layer = (Layer){
        .inputs = shape[1],
        .outputs = shape[0],
        .weights = taken[0].buf,
        .biases = taken[1].buf,
        .d_weights = taken[2].buf,
        .d_biases = taken[3].buf,
    };
    if (count == 8) {
        layer->gain = taken[4].buf;
        layer->shift = taken[5].buf;
        layer->d_gain = taken[6].buf;
        layer->d_shift = taken[7].buf;
    }
    return true;
}

static int mlp_init(MlpObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *layers;
    const char *activation;
    static char *names[] = {"layers", "activation", NULL};
    if (self->views) {
        PyErr_SetString(PyExc_TypeError, "an MLP is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!s", names, &PyList_Type, &layers, &activation))
        return -1;
    if (!take_activation(activation, &self->mlp.activation))
        return -1;
    const Py_ssize_t count = PyList_Size(layers);
    if (count < 1) {
        PyErr_SetString(PyExc_ValueError, "layers: expected at least one");
        return -1;
    }
    self->kernels = kernels;
    self->mlp.layers = calloc(count, sizeof(Layer));
    self->views = calloc(8 * count, sizeof(Py_buffer));
    if (!self->mlp.layers || !self->views) {
        PyErr_NoMemory();
        return -1;
    }
    bool in_passes = self->mlp.activation > WITH_RELU;
    for (Py_ssize_t l = 0; l < count; l++) {
        Layer *layer = self->mlp.layers + l;
        if (!take_layer(self, PyList_GetItem(layers, l), layer, l > 0 ? layer[-1].outputs : -1))
            return -1;
        if (layer->gain && l + 1 == count) {
            PyErr_SetString(PyExc_ValueError, "the last layer has a normalisation, which only hidden ones may have");
            return -1;
        }
        in_passes = in_passes || layer->gain;
    }
    self->mlp.in_passes = in_passes;
    self->mlp.num_layers = count;
    self->rows = -1;
    return 0;
}

static void mlp_dealloc(MlpObject *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    while (self->num_views > 0)
        PyBuffer_Release(self->views + --self->num_views);
    free(self->views);
    free(self->mlp.layers);
    free(self->workspace);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Checks that this thread may compute now, since an MLP has only one working memory; if not, sets an exception. */
static bool begin(MlpObject *self)
{
    if (self->computing) {
        PyErr_SetString(PyExc_RuntimeError, "this MLP is computing in another thread");
        return false;
    }
    if (!self->mlp.num_layers) {
        PyErr_SetString(PyExc_RuntimeError, "this MLP was not initialised");
        return false;
    }
    return true;
}

static PyObject *mlp_object_forward(MlpObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (!begin(self) || !expect_arguments("forward", count, 2))
        return NULL;
    PyObject *result = NULL;
    Views views = {.count = 0};
    const Layer *layers = self->mlp.layers;
    int64_t x_shape[2] = {-1, layers[0].inputs};
    const float *x = take_into(&views, args[0], "x", 'f', 2, x_shape, READ);
    if (!x)
        goto done;
    const int64_t rows = x_shape[0];
    int64_t outputs_shape[2] = {rows, layers[self->mlp.num_layers - 1].outputs};
    float *outputs = take_into(&views, args[1], "outputs", 'f', 2, outputs_shape, WRITE);
    if (!outputs)
        goto done;
    const int64_t needed = self->kernels->mlp_workspace_floats(&self->mlp, rows);
    if (needed > self->workspace_floats) {
        free(self->workspace);
        self->workspace = malloc(needed * sizeof(float));
        self->workspace_floats = self->workspace ? needed : 0;
        self->rows = -1;
        if (!self->workspace) {
            PyErr_NoMemory();
            goto done;
        }
    }
    self->rows = rows;
    self->computing = true;
    Py_BEGIN_ALLOW_THREADS
    self->kernels->mlp_forward(&self->mlp, rows, x, outputs, self->workspace);
    Py_END_ALLOW_THREADS
    self->computing = false;
    result = Py_NewRef(Py_None);
done:
    release(&views);
    return result;
}

static PyObject *mlp_object_backward(MlpObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (!begin(self) || !expect_arguments("backward", count, 2))
        return NULL;
    if (self->rows < 0) {
        PyErr_SetString(PyExc_RuntimeError, "forward comes before backward");
        return NULL;
    }
    PyObject *result = NULL;
    Views views = {.count = 0};
    const Layer *layers = self->mlp.layers;
    int64_t x_shape[2] = {self->rows, layers[0].inputs};
    int64_t outputs_shape[2] = {self->rows, layers[self->mlp.num_layers - 1].outputs};
    const float *x = take_into(&views, args[0], "x", 'f', 2, x_shape, READ);
    const float *d_outputs = x ? take_into(&views, args[1], "d_outputs", 'f', 2, outputs_shape, READ) : NULL;
    if (!d_outputs)
        goto done;
    self->computing = true;
    Py_BEGIN_ALLOW_THREADS
    self->kernels->mlp_backward(&self->mlp, self->rows, x, d_outputs, self->workspace);
    Py_END_ALLOW_THREADS
    self->computing = false;
    result = Py_NewRef(Py_None);
done:
    release(&views);
    return result;
}

static PyMethodDef mlp_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))mlp_object_forward, METH_FASTCALL, NULL},
    {"backward", (PyCFunction)(void (*)(void))mlp_object_backward, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot mlp_slots[] = {
    {Py_tp_init, mlp_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, mlp_dealloc},
    {Py_tp_methods, mlp_methods},
    {0, NULL},
};

static PyType_Spec mlp_spec = {
    .name = "rlkit.engine.native.kernels.MLP",
    .basicsize = sizeof(MlpObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = mlp_slots,
};

/* ---- optimisers ---- */

/* Converts arguments to doubles; returns false, with a Python exception set, if one of them is not a number. */
static bool take_numbers(PyObject *const *args, Py_ssize_t count, double *numbers)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyFloat_AsDouble(args[i]);
        if (numbers[i] == -1 && PyErr_Occurred())
            return false;
    }
    return true;
}

static PyObject *native_clip_global_norm(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Views views = {.count = 0};
    double max_norm, norm;
    if (!expect_arguments("clip_global_norm", count, 2) || !take_numbers(args + 1, 1, &max_norm))
        return NULL;
    float *gradient = take_floats(&views, args[0], "gradient", -1, WRITE);
    if (!gradient)
        return NULL;
    const int64_t size = views.taken[0].shape[0];
    Py_BEGIN_ALLOW_THREADS
    norm = kernels->clip_global_norm(size, gradient, max_norm);
    Py_END_ALLOW_THREADS
    release(&views);
    return PyFloat_FromDouble(norm);
}

static PyObject *native_adam(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *result = NULL;
    Views views = {.count = 0};
    double numbers[5]; /* steps, learning_rate, beta1, beta2, eps */
    if (!expect_arguments("adam", count, 9) || !take_numbers(args + 4, 5, numbers))
        return NULL;
    float *parameters = take_floats(&views, args[0], "parameters", -1, WRITE);
    if (!parameters)
        return NULL;
    const int64_t size = views.taken[0].shape[0];
    const float *gradient = take_floats(&views, args[1], "gradient", size, READ);
    float *exp_avg = gradient ? take_floats(&views, args[2], "exp_avg", size, WRITE) : NULL;
    float *exp_avg_sq = exp_avg ? take_floats(&views, args[3], "exp_avg_sq", size, WRITE) : NULL;
    if (exp_avg_sq) {
        Py_BEGIN_ALLOW_THREADS
        kernels->adam(size, parameters, gradient, exp_avg, exp_avg_sq, (int64_t)numbers[0], numbers[1], numbers[2],
                      numbers[3], numbers[4]);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    release(&views);
    return result;
}

static PyObject *native_rmsprop(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *result = NULL;
    Views views = {.count = 0};
    double numbers[3]; /* learning_rate, alpha, eps */
    if (!expect_arguments("rmsprop", count, 6) || !take_numbers(args + 3, 3, numbers))
        return NULL;
    float *parameters = take_floats(&views, args[0], "parameters", -1, WRITE);
    if (!parameters)
        return NULL;
    const int64_t size = views.taken[0].shape[0];
    const float *gradient = take_floats(&views, args[1], "gradient", size, READ);
    float *square_avg = gradient ? take_floats(&views, args[2], "square_avg", size, WRITE) : NULL;
    if (square_avg) {
        Py_BEGIN_ALLOW_THREADS
        kernels->rmsprop(size, parameters, gradient, square_avg, numbers[0], numbers[1], numbers[2]);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    release(&views);
    return result;
}

/* ---- losses ---- */

static bool named(PyObject *name, const char *const *names, int count, int *index)
{
    Py_ssize_t size;
    const char *given = PyUnicode_AsUTF8AndSize(name, &size);
    for (int i = 0; given && i < count; i++)
        if (strcmp(given, names[i]) == 0) {
            *index = i;
            return true;
        }
    if (given)
        PyErr_Format(PyExc_ValueError, "'%s' is none of the names known here", given);
    return false;
}

static PyObject *action_out_of_range(int64_t row)
{
    return PyErr_Format(PyExc_ValueError, "action: row %lld is out of range", (long long)row);
}

/* Arguments: head, part_sizes, objective, (clip_coef, kl_coef, clip_value_coef, ent_coef, vf_coef, count), params,
 * values, action, advantages, returns, log_prob, old_params, old_values, d_params, d_values. */
static PyObject *native_policy_loss(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const heads[] = {"categorical", "bernoulli", "gaussian"};
    static const char *const objectives[] = {"log_prob", "clip", "kl"};
    int head_kind, objective;
    double clip_coef, kl_coef, clip_value_coef, ent_coef, vf_coef, divisor;
    if (!expect_arguments("policy_loss", count, 14) || !named(args[0], heads, 3, &head_kind) ||
        !named(args[2], objectives, 3, &objective) || !expect_tuple(args[3], "coefficients") ||
        !PyArg_ParseTuple(args[3], "dddddd", &clip_coef, &kl_coef, &clip_value_coef, &ent_coef, &vf_coef, &divisor))
        return NULL;
    PyObject *result = NULL;
    Views views = {.count = 0};
    float *workspace = NULL;
    int64_t parts[1] = {-1}, params[2] = {-1, -1};
    Head head = {.kind = (HeadKind)head_kind};
    head.part_sizes = take_into(&views, args[1], "part_sizes", 'q', 1, parts, READ);
    PolicyRows rows = {0};
    if (!head.part_sizes || !(rows.params = take_into(&views, args[4], "params", 'f', 2, params, READ)))
        goto done;
    rows.rows = params[0];
    head.num_params = params[1];
    head.num_parts = parts[0];
    int64_t covered = 0;
    for (int64_t i = 0; i < head.num_parts; i++) {
        if (head.part_sizes[i] < 1 || head.part_sizes[i] > head.num_params) {
            covered = -1;
            break;
        }
        covered += head.part_sizes[i];
    }
    if (covered != head.num_params || (head.kind == BERNOULLI && head.num_parts != head.num_params) ||
        (head.kind == GAUSSIAN && 2 * head.num_parts != head.num_params)) {
        PyErr_SetString(PyExc_ValueError, "part_sizes do not fit params");
        goto done;
    }
    int64_t action[2] = {rows.rows, head.num_parts};
    if (!(rows.values = take_floats(&views, args[5], "values", rows.rows, READ)) ||
        !(rows.action = take_into(&views, args[6], "action", head.kind == CATEGORICAL ? 'q' : 'f', 2, action, READ)) ||
        !(rows.advantages = take_floats(&views, args[7], "advantages", rows.rows, READ)) ||
        !(rows.returns = take_floats(&views, args[8], "returns", rows.rows, READ)))
        goto done;
    if (objective != LOG_PROB && !(rows.log_prob = take_floats(&views, args[9], "log_prob", rows.rows, READ)))
        goto done;
    if (objective == KL_PENALTY && !(rows.old_params = take_into(&views, args[10], "old_params", 'f', 2, params, READ)))
        goto done;
    if (isfinite((float)clip_value_coef) &&
        !(rows.old_values = take_floats(&views, args[11], "old_values", rows.rows, READ)))
        goto done;
    float *d_params = take_into(&views, args[12], "d_params", 'f', 2, params, WRITE);
    float *d_values = d_params ? take_floats(&views, args[13], "d_values", rows.rows, WRITE) : NULL;
    if (!d_values)
        goto done;
    workspace = malloc(kernels->policy_loss_floats(&head) * sizeof(float));
    if (!workspace) {
        PyErr_NoMemory();
        goto done;
    }
    const PolicyLoss loss = {(Objective)objective, clip_coef, kl_coef, clip_value_coef, ent_coef, vf_coef, divisor};
    PolicyMetrics metrics;
    int64_t bad_row;
    Py_BEGIN_ALLOW_THREADS
    bad_row = kernels->policy_loss(&head, &loss, &rows, workspace, d_params, d_values, &metrics);
    Py_END_ALLOW_THREADS
    if (bad_row >= 0)
        action_out_of_range(bad_row);
    else
        result = Py_BuildValue("(ddddd)", metrics.policy_loss, metrics.value_loss, metrics.entropy, metrics.approx_kl,
                               metrics.clip_fraction);
done:
    free(workspace);
    release(&views);
    return result;
}

/* Arguments: q_values, action, targets, weights or None, loss, d_q_values, td_errors. */
static PyObject *native_td_loss(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char *const losses[] = {"mse", "huber"};
    int kind;
    if (!expect_arguments("td_loss", count, 7) || !named(args[4], losses, 2, &kind))
        return NULL;
    PyObject *result = NULL;
    Views views = {.count = 0};
    int64_t shape[2] = {-1, -1};
    const float *q_values = take_into(&views, args[0], "q_values", 'f', 2, shape, READ);
    if (!q_values)
        return NULL;
    const int64_t rows = shape[0];
    const int64_t *action = take_into(&views, args[1], "action", 'q', 1, shape, READ);
    const float *targets = action ? take_floats(&views, args[2], "targets", rows, READ) : NULL;
    const float *weights = NULL;
    if (!targets || (args[3] != Py_None && !(weights = take_floats(&views, args[3], "weights", rows, READ))))
        goto done;
    float *d_q_values = take_into(&views, args[5], "d_q_values", 'f', 2, shape, WRITE);
    float *td_errors = d_q_values ? take_floats(&views, args[6], "td_errors", rows, WRITE) : NULL;
    if (!td_errors)
        goto done;
    int64_t bad_row;
    double loss = 0;
    Py_BEGIN_ALLOW_THREADS
    bad_row = kernels->td_loss(rows, shape[1], q_values, action, targets, weights, kind == 1, d_q_values, td_errors,
                               &loss);
    Py_END_ALLOW_THREADS
    result = bad_row >= 0 ? action_out_of_range(bad_row) : PyFloat_FromDouble(loss);
done:
    release(&views);
    return result;
}

/* ---- module ---- */

static PyMethodDef functions[] = {
    {"available_simd", native_available_simd, METH_NOARGS, NULL},
    {"simd", native_simd, METH_NOARGS, NULL},
    {"use_simd", native_use_simd, METH_O, NULL},
    {"clip_global_norm", (PyCFunction)(void (*)(void))native_clip_global_norm, METH_FASTCALL, NULL},
    {"adam", (PyCFunction)(void (*)(void))native_adam, METH_FASTCALL, NULL},
    {"rmsprop", (PyCFunction)(void (*)(void))native_rmsprop, METH_FASTCALL, NULL},
    {"policy_loss", (PyCFunction)(void (*)(void))native_policy_loss, METH_FASTCALL, NULL},
    {"td_loss", (PyCFunction)(void (*)(void))native_td_loss, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static int start(PyObject *module)
{
    find_kernels();
    if (!num_available) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2 and FMA, which the C engine needs on x86-64");
        return -1;
    }
    kernels = available[0];
    PyObject *type = PyType_FromSpec(&mlp_spec);
    const int failed = !type || PyModule_AddObjectRef(module, "MLP", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kernels",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_kernels(void)
{
    return PyModuleDef_Init(&definition);
}
