"""What everything else talks about: samples, candidates, pairs, and how they are named and kept on disk."""

from parallax.records.candidate import Candidate, Decoding, GenerationSpec, ViewSpec
from parallax.records.conversation import Conversation, Message
from parallax.records.fingerprint import bytes_digest, file_digest, fingerprint, seed_for
from parallax.records.pair import Dropped, PreferencePair, Response
from parallax.records.sample import ASKED, BadImage, ImageRef, RefusedImage, Sample, Turn, naming

__all__ = [
    "ASKED",
    "BadImage",
    "Candidate",
    "Conversation",
    "Decoding",
    "Dropped",
    "GenerationSpec",
    "ImageRef",
    "Message",
    "PreferencePair",
    "RefusedImage",
    "Response",
    "Sample",
    "Turn",
    "ViewSpec",
    "bytes_digest",
    "file_digest",
    "fingerprint",
    "naming",
    "seed_for",
]
