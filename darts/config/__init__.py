"""From YAML to typed settings: composition, registration of parts, identity of an experiment, commands.

Imports from: runtime.
Public: register, command_settings, load_plugins, typed_settings, identity, cli_command.
"""
