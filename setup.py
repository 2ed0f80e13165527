"""The one thing that pyproject.toml cannot say: the native engine, which is built where it can be and left out else."""

import platform

from setuptools import Extension, setup

C = "rlkit/engine/native/c"
NATIVE = Extension(
    "rlkit.engine.native.kernels",
    sources=[f"{C}/{name}.c" for name in ("module", "matmul", "mlp", "optimizers", "losses")],
    depends=[f"{C}/kernels.h"],
    # Never -ffast-math: GCC then sets the whole process to flush small numbers to zero.
    extra_compile_args=["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"],
    py_limited_api=True,
    optional=True,  # without a compiler the install succeeds, and `compute=auto` takes NumPy
)

setup(ext_modules=[NATIVE] if platform.machine() in ("x86_64", "AMD64") else [])
