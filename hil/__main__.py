"`python -m hil`: the command line, also under torchrun."
from hil.cli import main

main()
