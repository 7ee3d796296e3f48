"""Where and how a run computes: errors, signals, files, seeding, device, processes, checkpoints.

Imports from: nothing of this package.
Public: UserError, require, lock_folder, write_json, generator, ambient, ready_device, Checkpoints, distributed.*.
"""
