"""Everything that can go wrong, as one tree, and what each code means: docs/errors.md shows the registry below.

FacewireError               a stage's error: `stage` and `code` for programs, `detail` for people
├── SettingsError           a setting from the environment or the command line
├── CertificateError        a CA or a certificate on disk
├── ModelError              a model file
├── TorchFileError          a file of torch.save (facewire.conversion)
│   └── UnsafePickleError   one that asks for code to be run
├── PullError               weights that are fetched and converted (facewire.conversion)
├── IntakeError             what was sent is no frame, is over a limit, or in conflict with another
├── DecodeError             the bytes of a picture
├── DetectError             finding the faces in a frame
├── RecognizeError          naming them
├── GalleryError            enrolled people and faces
├── QueueError              what messages are sent to and received from
│   ├── PartialError        a queue did part of a call (facewire.domain.ports)
│   └── NucleusError        the Greengrass nucleus (facewire_greengrass)
├── StoreError              results and gallery, kept and read
├── GatewayError            the HTTP API refuses a request (facewire_gateway)
├── ClientError             a command that asks a server (facewire_standalone)
└── ChildError              `facewire up` as a child of another command (facewire_standalone)

The detail is for the log: it may name files, endpoints and accounts. `public` is what strangers and devices get, the
detail only where the registry says that it holds nothing of the server's inside.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeGuard


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means.

    `fault`: whose it is, `outage` where something the server stands on is away. `retry`: `never`, as the same message
    fails again; `later`, counted, up to the fifth receive; `outage`, uncounted, until what is away is back.
    `public` says whether strangers read the error's detail or, in its place, the `meaning`.
    """

    fault: Literal["sender", "operator", "us", "outage"]
    retry: Literal["never", "later", "outage"]
    status: int
    public: Literal["detail", "meaning"]
    meaning: str


def _refusal(status: int, meaning: str) -> Kind:
    """Return the kind of what a sender can put right; the detail says how."""
    return Kind("sender", "never", status, "detail", meaning)


def _set_up(meaning: str) -> Kind:
    """Return the kind of what ends a command or a start; its terminal shows the detail."""
    return Kind("operator", "never", 500, "meaning", meaning)


def _operator(status: int, meaning: str) -> Kind:
    """Return the kind of what works again, with the same message, once it is set up rightly."""
    return Kind("operator", "later", status, "meaning", meaning)


def _outage(meaning: str) -> Kind:
    return Kind("outage", "outage", 503, "meaning", meaning)


#: What a code stands for that comes from elsewhere, as in the answer of another version.
UNKNOWN_KIND = Kind("us", "later", 500, "meaning", "the server failed on this: its log says more")

#: Every code of the project, once.
REGISTRY: dict[str, Kind] = {
    # What was sent.
    "bad_box": _refusal(422, "a face's box is not finite, or not in its crop"),
    "bad_cursor": _refusal(422, "the cursor is not one that a page of results gave"),
    "bad_event": _refusal(422, "an event of S3 that names no object"),
    "bad_landmarks": _refusal(422, "landmarks that are not five different points of the frame"),
    "bad_message": _refusal(422, "a message on the request or response queue that cannot be read"),
    "bad_multipart": _refusal(422, "a multipart body that cannot be read, or without a picture"),
    "bad_name": _refusal(422, "a name or an id that cannot be used"),
    "bad_request": _refusal(422, "a body or a parameter that cannot be read"),
    "broken_image": _refusal(422, "a picture that cannot be decoded"),
    "crop_too_large": _refusal(413, "the crop of an enrolled face does not fit into the store"),
    "deleted": _refusal(409, "the face or its person was deleted after the enrolment was asked for"),
    "empty_body": _refusal(422, "no picture was sent"),
    "enroll_refused": _refusal(422, "enroll_as is not taken on this way"),
    "enrolment_failed": _refusal(422, "an enrolment ended with an error, which the problem names"),
    "enrolment_refused": _refusal(422, "a picture that is not good enough to enrol"),
    "expired": _refusal(410, "the answer is no longer kept"),
    "face_id_taken": _refusal(409, "the face is enrolled for another person"),
    "foreign_host": _refusal(403, "without keys only localhost is served"),
    "foreign_origin": _refusal(403, "without keys pages of other origins are not served"),
    "id_conflict": _refusal(409, "the request id stands for another picture or purpose"),
    "image_too_large": _refusal(413, "a picture over the limit of pixels"),
    "message_refused": _refusal(413, "a queue does not take what follows from the frame"),
    "message_too_large": _refusal(413, "what follows from the frame does not fit into a message"),
    "method_not_allowed": _refusal(405, "a method that the address does not take"),
    "missing_key": _refusal(401, "no key was sent"),
    "missing_role": _refusal(403, "the key may not do this"),
    "no_such_page": _refusal(404, "an address that does not exist"),
    "not_an_image": _refusal(422, "no JPEG, PNG or WebP picture"),
    "not_enrolled": _refusal(404, "the person or face is not enrolled"),
    "not_text": _refusal(422, "a message that is empty or not UTF-8"),
    "too_large": _refusal(413, "a body, picture or message over its limit in bytes"),
    "too_many_images": _refusal(422, "more pictures than one call takes"),
    "truncated_image": _refusal(422, "a picture that ends early"),
    "unknown_key": _refusal(401, "a key that does not exist"),
    "unknown_request": _refusal(404, "a request id that was never seen"),
    "unsupported_media_type": _refusal(415, "a Content-Type that is not taken"),
    # What an answer tells of a frame, and of a request.
    "answer_too_large": Kind("us", "never", 500, "detail", "the answer does not fit into the store"),
    "bad_answer": Kind("us", "never", 500, "detail", "the answer of a server cannot be read"),
    "bad_receipt": Kind("us", "later", 500, "detail", "the receipt of a lease is of another queue"),
    "body_too_slow": Kind("sender", "later", 408, "detail", "the body did not come in time"),
    "closed": Kind("outage", "later", 503, "meaning", "the server is stopping: try again in a moment"),
    "dead_letter": Kind("us", "later", 500, "detail", "a message was given up: no attempt came to an end"),
    "gave_up": Kind("us", "later", 500, "detail", "a message was given up: no attempt came to an end"),
    "internal": Kind("us", "later", 500, "detail", "every attempt failed for an unforeseen reason"),
    "internal_error": Kind("us", "later", 500, "detail", "the server failed on this request"),
    "lost": Kind("outage", "later", 503, "detail", "no answer came within the deadline"),
    "no_answer": Kind("outage", "later", 503, "detail", "no answer came while the command waited"),
    "no_such_object": Kind("sender", "never", 404, "meaning", "the picture is gone, or may not be read: put it again"),
    "no_table": Kind("operator", "never", 500, "detail", "the table that this needs is not set"),
    "not_finite": Kind("us", "never", 500, "detail", "a model gave numbers that are not finite"),
    "not_ready": Kind("operator", "never", 500, "detail", "the server ended before it was ready"),
    "overloaded": Kind("outage", "later", 503, "detail", "too much is waiting or under way: send again later"),
    "skipped": Kind("outage", "later", 503, "detail", "newer frames of the camera took the place of this one"),
    "too_many_listeners": Kind("outage", "later", 503, "detail", "too many listen to events already"),
    "unreadable_file": Kind("sender", "never", 422, "detail", "a file that the command cannot read"),
    # Queues and stores.
    "busy": _outage("a queue or store is busy: try again in a moment"),
    "connection_lost": _outage("the connection to the core was lost"),
    "disk_full": _outage("the disk is full: try again later"),
    "mqtt_not_connected": _outage("no connection to the MQTT broker"),
    "mqtt_publish": _outage("the MQTT broker did not take a message"),
    "not_connected": _outage("no connection to the core"),
    "spool_full": _outage("what waits for an outage to end is at its limit"),
    "timeout": _outage("the core did not answer in time"),
    "unavailable": _outage("a queue or store cannot answer now: try again in a moment"),
    "no_detector": _outage("no detector is there: uploads wait for one"),
    "unreachable": _outage("a queue or store is out of reach: try again in a moment"),
    "bucket_taken": _operator(500, "the bucket's name is taken by another account"),
    "corrupt": _operator(503, "the database is damaged"),
    "removed": _operator(503, "the database file was removed or replaced while in use"),
    "io_error": _operator(503, "the disk failed to read or write"),
    "newer_schema": _operator(503, "the database is of a newer version"),
    "no_credentials": _operator(500, "the server has no credentials for AWS"),
    "no_such_bucket": _operator(500, "a bucket is missing"),
    "no_such_queue": _operator(500, "a queue is missing"),
    "no_such_table": _operator(500, "a table is missing"),
    "not_a_database": _operator(503, "the database file is not a database"),
    "refused": _operator(500, "a queue or store refuses this"),
    "sqlite": _operator(503, "the database failed"),
    "unauthorized": _operator(500, "the core does not allow the component to do this"),
    "unwritable": _operator(503, "a file or folder cannot be written"),
    "wrong_table": _operator(500, "a table has other keys or indexes than it must"),
    # Commands, and the start of a service.
    "bad_rows": _set_up("embeddings and names of a gallery file do not fit together"),
    "broken": _set_up("a model file cannot be loaded, or is another model"),
    "broken_pickle": _set_up("a pickle that is broken"),
    "broken_torch_file": _set_up("a file of torch.save that is broken"),
    "broken_weights": _set_up("weights that are not those of the model"),
    "bundle": _set_up("the folder of a device's certificate cannot be used"),
    "ca_damaged": _set_up("the files of the CA do not fit together"),
    "ca_ended": _set_up("the CA's certificate has ended"),
    "camera": _set_up("a camera's name that cannot be used"),
    "data_dir": _set_up("the data folder cannot be used, or another process uses it"),
    "detector": _set_up("an option of the detector that cannot be used"),
    "device": _set_up("a device's name that cannot be used"),
    "empty_gallery": _set_up("no face is enrolled that could be exported"),
    "file": _set_up("a file cannot be read or written"),
    "folder_name": _set_up("a folder's name is no name of a person"),
    "host": _set_up("the host to listen on cannot be used"),
    "key": _set_up("a key that holds what no key does"),
    "key_exists": _set_up("a key of that name exists"),
    "keys_file": _set_up("the file of keys cannot be used"),
    "missing": _set_up("a model file is missing"),
    "mqtt_broker": _set_up("the embedded MQTT broker ended"),
    "mqtt_ca_file": _set_up("the CA certificate of the MQTT broker cannot be used"),
    "mqtt_cert_file": _set_up("the certificate or key for the MQTT broker cannot be used"),
    "mqtt_host": _set_up("the host of the embedded MQTT broker cannot be used"),
    "mqtt_password_file": _set_up("the password file of the MQTT broker cannot be used"),
    "mqtt_port": _set_up("the port of the embedded MQTT broker cannot be used"),
    "mqtt_share_file": _set_up("the file with the name of the shared subscription cannot be used"),
    "name": _set_up("a host name or address that cannot be used"),
    "no_ca": _set_up("there is no CA yet"),
    "enroll_key": _set_up("the key of enrolments cannot be used"),
    "no_gallery": _set_up("there is no gallery in the data folder"),
    "no_samples": _set_up("the sample pictures are missing"),
    "no_such_folder": _set_up("a folder does not exist"),
    "no_such_key": _set_up("there is no key of that name"),
    "not_a_torch_file": _set_up("a file that torch.save did not write"),
    "not_converted": _set_up("the weights of a model are not converted yet"),
    "not_fetched": _set_up("the weights of a model could not be fetched"),
    "not_torchscript": _set_up("a file that holds no TorchScript module"),
    "nothing_to_enroll": _set_up("a folder without pictures of people"),
    "port": _set_up("the port to listen on cannot be used"),
    "probe_port": _set_up("the port for probes cannot be used"),
    "secret": _set_up("a secret of the core cannot be used"),
    "tls_cert_file": _set_up("the gateway's certificate or key cannot be used"),
    "unknown": _set_up("there is no model of that name"),
    "unreadable": _set_up("a gallery file or a certificate cannot be read"),
    "unsafe": _set_up("a gallery file that asks for code to be run"),
    "unsafe_pickle": _set_up("a pickle that asks for code to be run"),
    "unsupported_torch_file": _set_up("a file of torch.save in a form that is not read"),
    "unwritable_file": _set_up("a file cannot be written"),
    "url": _set_up("an address of a server that cannot be used"),
    "wrong_dimension": _set_up("embeddings of another length than the embedder's"),
    "wrong_embedder": _set_up("embeddings of another embedder"),
    "wrong_setting": _set_up("a setting cannot be used"),
    "wrong_sha256": _set_up("a file is not the one that the manifest names"),
}


class FacewireError(Exception):
    """What went wrong in one stage: `stage` and `code` for programs, `detail` for the log, `public` for all others."""

    stage: ClassVar[str] = "facewire"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.stage}: {self.code}: {self.detail}"

    @property
    def kind(self) -> Kind:
        """What the code means."""
        return kind_of(self.code)

    @property
    def public(self) -> str:
        """What strangers and devices may read of it; the detail is for the log."""
        return public_text(self.code, self.detail)


class SettingsError(FacewireError):
    """A setting from the environment or the command line cannot be used."""

    stage = "settings"


class CertificateError(FacewireError):
    """A CA or a certificate could not be read, made or kept."""

    stage = "certificates"


class ModelError(FacewireError):
    """A model file is missing, broken, or not the one the manifest names."""

    stage = "model"


class IntakeError(FacewireError):
    """A frame was not accepted: not readable as a Frame, over a limit, or in conflict with another."""

    stage = "intake"


class DecodeError(FacewireError):
    """The bytes of a picture could not be turned into pixels."""

    stage = "decode"


class DetectError(FacewireError):
    """Finding the faces in a decoded frame failed."""

    stage = "detect"


class RecognizeError(FacewireError):
    """A face crop could not be aligned, embedded or matched."""

    stage = "recognize"


class GalleryError(FacewireError):
    """An enrolled person or face could not be read, kept or imported."""

    stage = "gallery"


class QueueError(FacewireError):
    """A message could not be sent, received or acknowledged."""

    stage = "queue"


class StoreError(FacewireError):
    """A result or an enrolled face could not be kept or read back."""

    stage = "store"


def kind_of(code: str) -> Kind:
    """Return what a code means, also of a code that another version gave."""
    return REGISTRY.get(code, UNKNOWN_KIND)


def public_text(code: str, detail: str) -> str:
    """Return what strangers and devices may read of an error."""
    kind = kind_of(code)
    return detail if kind.public == "detail" else kind.meaning


def is_outage(error: Exception) -> bool:
    """Return whether something we stand on is away or full just now; the same call may succeed later."""
    return isinstance(error, FacewireError) and error.kind.retry == "outage"


def is_final(error: Exception) -> TypeGuard[FacewireError]:
    """Return whether every further attempt would fail alike: the message itself is at fault."""
    return isinstance(error, FacewireError) and error.kind.retry == "never"


def needs_operator(error: FacewireError) -> bool:
    """Return whether asking again is of no use until what is set up wrongly is put right."""
    return error.kind.fault == "operator"
