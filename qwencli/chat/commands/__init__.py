"""The chat's commands: small functions of a session and of what was typed behind the command's name."""
