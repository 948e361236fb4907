"""The namespaces that a run needs, made where they are missing and this account may."""

from stuntime.errors import UnfitError
from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.kinds import NAMESPACE

_FORBIDDEN = 403


def require(api: Api, name: str) -> bool:
    """See that a namespace is there; return whether it was made now.

    An account that may not even look is believed: what it is refused later says so. Raise UnfitError when it is
    missing and cannot be made.
    """
    try:
        if api.get(NAMESPACE, name) is not None:
            return False
    except ApiError as error:
        if error.status == _FORBIDDEN:
            return False
        raise
    try:
        api.create(NAMESPACE, NAMESPACE.object(name))
    except ConflictError:
        return False
    except ApiError as error:
        raise UnfitError(
            f"there is no namespace {name}, and this account may not make it",
            f"have it made (`kubectl create namespace {name}`), or name another one",
            reason="namespace-missing",
        ) from error
    return True
