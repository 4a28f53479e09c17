"""``python -m compactff_md``, which is also how ``torchrun`` starts the command line."""

from compactff_md.cli import main

main()
