"""`python -m tests.infra.linters`: install them."""

from . import FOLDER, install

if __name__ == "__main__":
    install()
    print(f"installed in {FOLDER}")
