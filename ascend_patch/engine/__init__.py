"""The overlay engine: patches as data, decided statically, applied lazily, undone on request.

Who uses whom, from the bottom up:

=====================  =========================================================================
`vocabulary`           what a patch is written in
`sources`, `syntax`    a package's files as text, and what a target looks like in them
`contracts`            what targets looked like in known versions; `contract_building` generates
                       them, `contract_checking` compares
`registry`             all patches, checked and in order
`planning`             a decision for each patch, before the package executes
`finder`               the hook right before and after chosen modules execute
`retargeting`, `slots`, `rewriting`, `aliases`
                       the changes in memory, each of which can undo itself
`journal`, `progress`, `overlay`
                       carrying out a plan: transactions, undo, status
`recording`, `records` what each process did, and whether the processes agree
=====================  =========================================================================

Nothing here knows vLLM, torch or NPUs: any package can be overlaid.
"""
