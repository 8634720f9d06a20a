"""KMS: authenticated encryption. Upstream XORs with a pad, so an altered ciphertext decrypts to something else."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import ministack.services.kms as kms
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Json = Any
_ID, _NONCE = 36, 12
_encrypt, _decrypt = kms._encrypt, kms._decrypt
_generate_data_key_common = kms._generate_data_key_common
_generate_data_key_pair_common = kms._generate_data_key_pair_common


def install() -> None:
    kms._encrypt, kms._decrypt = encrypt, decrypt
    kms._generate_data_key_common = generate_data_key_common
    kms._generate_data_key_pair_common = generate_data_key_pair_common


def _bound(key_id: str, context: Json) -> bytes:
    return json.dumps([key_id, context or {}], sort_keys=True).encode()


def _seal(record: Json, plaintext: bytes, context: Json) -> bytes:
    """The key's id, a nonce, and AES-256-GCM bound to id and encryption context."""
    nonce = os.urandom(_NONCE)
    sealed = AESGCM(record["_symmetric_key"]).encrypt(nonce, plaintext, _bound(record["KeyId"], context))
    return record["KeyId"].encode() + nonce + sealed


def encrypt(data: Json) -> Json:
    record = kms._resolve_key(data.get("KeyId", ""))
    if not record or "_symmetric_key" not in record:
        return _encrypt(data)
    if refused := kms._reject_hmac_key(record, "Encrypt") or kms._check_key_state(record):
        return refused
    sealed = _seal(record, base64.b64decode(data.get("Plaintext", "")), data.get("EncryptionContext"))
    answer = {"KeyId": record["Arn"], "CiphertextBlob": base64.b64encode(sealed).decode()}
    return kms.json_response({**answer, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})


def decrypt(data: Json) -> Json:
    blob = base64.b64decode(data.get("CiphertextBlob", ""))
    record = kms._resolve_key(blob[:_ID].decode(errors="ignore"))
    named = kms._resolve_key(data["KeyId"]) if data.get("KeyId") else None
    if not record or "_symmetric_key" not in record:
        return _decrypt(data) if named and "_private_key" in named else _invalid()
    if data.get("KeyId") and named is not record:
        return kms.error_response_json(
            "IncorrectKeyException", "The key ID in the request does not identify a CMK that can decrypt this", 400
        )
    if refused := kms._check_key_state(record):
        return refused
    nonce, sealed = blob[_ID : _ID + _NONCE], blob[_ID + _NONCE :]
    try:
        bound = _bound(record["KeyId"], data.get("EncryptionContext"))
        plaintext = AESGCM(record["_symmetric_key"]).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError):
        return _invalid()
    answer = {"KeyId": record["Arn"], "Plaintext": base64.b64encode(plaintext).decode()}
    return kms.json_response({**answer, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})


def _invalid() -> Json:
    return kms.error_response_json("InvalidCiphertextException", "", 400)


def generate_data_key_common(data: Json, action: str = "GenerateDataKey") -> Json:
    record, key, sealed = _generate_data_key_common(data, action)
    return (record, key, sealed) if record is None else (record, key, _seal(record, key, data.get("EncryptionContext")))


def generate_data_key_pair_common(data: Json, action: str) -> Json:
    payload, private, error = _generate_data_key_pair_common(data, action)
    if payload is not None:
        sealed = _seal(kms._resolve_key(data["KeyId"]), private, data.get("EncryptionContext"))
        payload["PrivateKeyCiphertextBlob"] = base64.b64encode(sealed).decode()
    return payload, private, error
