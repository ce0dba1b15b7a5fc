"""The command `fastbcast`: everything that uses click, and nothing that an application imports.

    cli.py            the commands: serve, demo, publish, listen, and the options of each
    load.py           the commands load and bench, for the load generator in `load`
    clients.py        what publish and listen do: small clients on picows
      interim.py        interim answers (100, 103) are skipped until the final one
    token_option.py   the option --token-file: the token with which a command presents itself
    url_argument.py   the argument URL
    paths.py          paths on the command line
    streams.py        standard input, output and error: they wait, and say which of them failed

`python -m fastbcast` and the installed script begin in `fastbcast/__main__.py`.
"""
