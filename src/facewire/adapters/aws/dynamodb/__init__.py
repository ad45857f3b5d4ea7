"""Results and gallery in DynamoDB, in one table or in two.

Every item has a partition key `pk` and a sort key `sk`:

| pk | sk | holds |
|---|---|---|
| the request id | `frame` | a request: pending, or with its answer |
| the request id | `face#<n>` | one face of the answer, in plain attributes for other readers |
| `#forgotten` | hash of a person | the gallery's version from which the person is no longer in it |
| `#forgotten#` | `token` | another token after every change of that |
| `#deleted` | hash of a person, or id of a face | when that was deleted: what was asked for before stays out |
| `#gallery` | `version` | the number of the gallery's latest change, and which faces the latest were about |
| `gallery#<shard>` | `face#…`, `vector#…`, `crop#…` | an enrolled face, one of its embeddings, its crop |

A request id never holds `#`, every other partition key does, so that no sender can write among what is not a request.
A hash is the SHA-256 of the name. What is past its TTL counts as deleted; DynamoDB deletes it within some two days.
A table of the version before has `person#…`, `mention#…`, `#days` and `#changes` besides, which age out unread.
"""
