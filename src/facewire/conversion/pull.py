"""Fetches a model that does not ship, checks it and brings it into its place, once, before anything needs it."""

from collections.abc import Callable
from pathlib import Path

import httpx

from facewire.conversion.faceapi import build_attributes, read_weights
from facewire.conversion.facenet import build_inception_resnet, read_state
from facewire.domain.errors import FacewireError, ModelError
from facewire.vision.attributes import OnnxAttributeModel
from facewire.vision.embedder import EmbedderSpec, ModelSpec, OnnxEmbedder
from facewire.vision.models import ATTRIBUTES, check_sha256, find_model, pulled_models_dir, shipped_models_dir
from facewire.vision.onnx_session import open_session

#: Called with the bytes that are here and the bytes that there will be.
Progress = Callable[[int, int], None]

_TIMEOUT = httpx.Timeout(30.0)


class PullError(FacewireError):
    """A model could not be fetched, checked or converted."""

    stage = "pull"


def pull(
    model: str,
    models_dir: Path | None = None,
    *,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch and convert a model, or take its weights from the file `source`; return its ONNX file.

    It goes to `models_dir`, or to the user's data folder, and appears there whole or not at all. An interrupted
    download is kept as `<file>.download` and goes on where it stopped; what is here already is not fetched again, only
    replaced by a given `source`. For FaceNet `source` may be any `.pt` state
    dict or TorchScript archive of an InceptionResnetV1, for instance one trained by the user; other models must be the
    registered file. Raises PullError with a detail that says what to do, and ModelError `unknown` for an id that is
    not registered.
    """
    spec = find_model(model)
    shipped = shipped_models_dir() / spec.file
    if shipped.is_file():
        return shipped
    return pull_spec(spec, pulled_models_dir(models_dir), source=source, progress=progress)


def pull_spec(spec: ModelSpec, folder: Path, *, source: Path | None = None, progress: Progress | None = None) -> Path:
    """Do what `pull` does for any spec, whether registered or not."""
    try:
        if source is None and _is_here(spec, folder / spec.file):
            return folder / spec.file
        folder.mkdir(parents=True, exist_ok=True)
        weights = source or _download(spec, folder / f"{spec.file}.download", progress)
        target = _install(spec, weights, folder)
        if source is None:
            weights.unlink()
    except OSError as error:
        raise PullError("file", f"{error.filename or folder}: {error.strerror}") from error
    return target


def _is_here(spec: ModelSpec, path: Path) -> bool:
    if spec.sha256 is None or not path.is_file():
        return path.is_file()
    try:
        check_sha256(path, spec.sha256)
    except ModelError:
        return False
    return True


def _download(spec: ModelSpec, partial: Path, progress: Progress | None) -> Path:
    """Return `partial` when it is complete and checked; what it holds already is not fetched again."""
    if not spec.source.startswith(("http://", "https://")):
        raise PullError("not_fetched", f"{spec.id} is made of {spec.source}; {_by_hand(spec)}")
    here = partial.stat().st_size if partial.is_file() else 0
    try:
        if here < spec.source_bytes:
            _fetch(spec, partial, progress)
    except httpx.HTTPError as error:
        detail = f"{spec.source} cannot be fetched ({error or type(error).__name__}); {_by_hand(spec)}"
        raise PullError("not_fetched", detail) from error
    try:
        check_sha256(partial, spec.source_sha256)
    except FacewireError as error:
        partial.unlink()
        raise PullError(error.code, f"{error.detail}; it is deleted, run again or {_by_hand(spec)}") from error
    return partial


def _fetch(spec: ModelSpec, partial: Path, progress: Progress | None) -> None:
    here = partial.stat().st_size if partial.is_file() else 0
    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
    with httpx.stream("GET", spec.source, headers=wanted, follow_redirects=True, timeout=_TIMEOUT) as response:
        if not response.is_success:
            message = f"HTTP status {response.status_code}"
            raise httpx.HTTPStatusError(message, request=response.request, response=response)
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        here = here if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():
                here += len(chunk)
                if here > spec.source_bytes:
                    break
                file.write(chunk)
                if progress is not None:
                    progress(here, spec.source_bytes)


def _by_hand(spec: ModelSpec) -> str:
    return f"fetch it elsewhere and run: facewire models pull {spec.id} --from FILE"


def _install(spec: ModelSpec, weights: Path, folder: Path) -> Path:
    """Convert `weights` beside the target, see that the result opens, and only then put it into place."""
    partial = folder / f"{spec.file}.partial"
    try:
        _convert(spec, weights, partial)
        _check_it_opens(spec, partial)
        return partial.replace(folder / spec.file)
    except FacewireError as error:
        raise PullError(error.code, f"{weights} cannot be used as {spec.id}: {error.detail}") from error
    finally:
        partial.unlink(missing_ok=True)


def _convert(spec: ModelSpec, weights: Path, target: Path) -> None:
    if spec.id == "facenet-vggface2":
        build_inception_resnet(read_state(weights), target)
        return
    check_sha256(weights, spec.source_sha256)
    if spec.id == ATTRIBUTES.id:
        build_attributes(read_weights(weights), target)
    else:
        target.write_bytes(weights.read_bytes())


def _check_it_opens(spec: ModelSpec, model: Path) -> None:
    session = open_session(model)
    if isinstance(spec, EmbedderSpec):
        OnnxEmbedder(session, spec)
    else:
        OnnxAttributeModel(session, spec)
