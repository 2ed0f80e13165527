"""The one thing that pyproject.toml cannot say: the native engine, which is built where it can be and left out else."""

import platform

from setuptools import Extension, setup

C = "rlkit/engine/native/c"
NATIVE = Extension(
    "rlkit.engine.native.kernels",
    # One source for each kind of vector instructions; what other processors have compiles to nothing.
    sources=[f"{C}/{name}.c" for name in ("module", "avx2", "avx512", "neon")],
    depends=[
        f"{C}/{name}"
        for name in ("kernels.h", "vectors.h", "matmul.c", "activations.c", "mlp.c", "optimizers.c", "losses.c")
    ],
    # Never -ffast-math: GCC then sets the whole process to flush small numbers to zero. Products and sums are fused, as
    # GCC does it unasked: clang takes more than twice the time without.
    extra_compile_args=[
        "-std=gnu11",
        "-O3",
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
    ],
    py_limited_api=True,
    optional=True,  # without a compiler the install succeeds, and `compute=auto` takes torch
)

setup(
    ext_modules=[NATIVE] if platform.machine() in ("x86_64", "AMD64", "aarch64", "arm64") else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for each system serves Python 3.11 and later
)
