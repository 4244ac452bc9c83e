"""What the pretrained models look like to headscope, by commands: docs/real-models.md.

    python -m tools.real_models run            every command on every model that `make real` fetched
    python -m tools.real_models page           the page, from what they printed    (make real-models: both)
    python -m tools.real_models VERB NAME      what no verb of headscope says, as JSON; the verbs are in VERBS

`commands` says what is run and keeps what it printed; `layers`, `kinds`, `repair` and `objects` are the verbs; `page`
and its parts (`experiments`, `studies`, `markdown`) read what was kept. Every number of the page is read from there,
and whether a published claim holds is for a line of code to decide.
"""
