"""Other software that quantizes. To add one: a file with a `Peer`, and its name here."""

from benchmarks.peers.nncf import NNCF, NNCF_UNSMOOTHED
from benchmarks.peers.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_TUNED
from benchmarks.peers.peer import Peer
from benchmarks.peers.torchao import TORCHAO

PEERS: dict[str, Peer] = {peer.name: peer for peer in (TORCHAO, ONNXRUNTIME, ONNXRUNTIME_TUNED, NNCF, NNCF_UNSMOOTHED)}
