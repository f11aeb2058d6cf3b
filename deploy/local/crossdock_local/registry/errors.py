"""The registry's refusals, with Confluent's error codes and wording.

Raised by `commands` and `service`, turned into responses by `http`. Source: the error codes of the Schema
Registry REST API; the HTTP status is the code's first three digits.
"""

from collections.abc import Sequence


class RegistryError(Exception):
    """A refusal that the client is to see: `code` as documented by Confluent, `message` for a person."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code if self.code < 1000 else self.code // 100


def subject_not_found(subject: str) -> RegistryError:
    """40401."""
    return RegistryError(40401, f"Subject '{subject}' not found.")


def version_not_found(version: int) -> RegistryError:
    """40402."""
    return RegistryError(40402, f"Version {version} not found.")


def schema_not_found(wanted: int | str | None = None) -> RegistryError:
    """40403; `wanted` is the id or the guid that was asked for."""
    return RegistryError(40403, "Schema not found" if wanted is None else f"Schema {wanted} not found")


def subject_soft_deleted(subject: str) -> RegistryError:
    """40404."""
    return RegistryError(
        40404, f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
    )


def subject_not_soft_deleted(subject: str) -> RegistryError:
    """40405."""
    return RegistryError(40405, f"Subject '{subject}' was not deleted first before being permanently deleted")


def version_soft_deleted(subject: str, version: int) -> RegistryError:
    """40406."""
    return RegistryError(
        40406,
        f"Subject '{subject}' Version {version} was soft deleted. Set permanent=true to delete permanently",
    )


def version_not_soft_deleted(subject: str, version: int) -> RegistryError:
    """40407."""
    return RegistryError(
        40407, f"Subject '{subject}' Version {version} was not deleted first before being permanently deleted"
    )


def no_subject_config(subject: str) -> RegistryError:
    """40408."""
    return RegistryError(40408, f"Subject '{subject}' does not have subject-level compatibility configured")


def no_subject_mode(subject: str) -> RegistryError:
    """40409."""
    return RegistryError(40409, f"Subject '{subject}' does not have subject-level mode configured")


def incompatible(messages: Sequence[str]) -> RegistryError:
    """409: every message names the rule and the field."""
    return RegistryError(
        409,
        "Schema being registered is incompatible with an earlier schema; details: " + "; ".join(messages),
    )


def invalid_schema(reason: str) -> RegistryError:
    """42201."""
    return RegistryError(42201, f"Invalid schema: {reason}")


def invalid_version(version: str) -> RegistryError:
    """42202."""
    return RegistryError(
        42202,
        f"The specified version '{version}' is not a valid version id. "
        'Allowed values are between [1, 2^31-1] and the string "latest"',
    )


def invalid_compatibility_level(level: object) -> RegistryError:
    """42203."""
    return RegistryError(
        42203,
        f"Invalid compatibility level {level!r}. Valid values are none, backward, forward, full, "
        "backward_transitive, forward_transitive, and full_transitive",
    )


def invalid_mode(mode: object) -> RegistryError:
    """42204."""
    return RegistryError(42204, f"Invalid mode {mode!r}. Valid values are READWRITE, READONLY and IMPORT")


def not_permitted(reason: str) -> RegistryError:
    """42205."""
    return RegistryError(42205, reason)


def reference_exists(subject: str, version: int) -> RegistryError:
    """42206."""
    return RegistryError(
        42206, f"One or more references exist to the schema of subject '{subject}' version {version}."
    )


def id_does_not_match(reason: str) -> RegistryError:
    """42207."""
    return RegistryError(42207, reason)


def store_error(reason: str) -> RegistryError:
    """50001: the topic could not be written; whether the write landed may be unknown, and a retry is safe."""
    return RegistryError(50001, f"Error in the backend data store: {reason}")


def no_leader() -> RegistryError:
    """50004: this instance is read-only because a newer one has taken over writing."""
    return RegistryError(
        50004, "Another registry has taken over writing on this cluster: this one is read-only now"
    )
