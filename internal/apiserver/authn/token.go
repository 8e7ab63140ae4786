package authn

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Tokens are JSON Web Tokens (RFC 7519) in compact form, signed with ES256 (RFC 7518 section
// 3.4). No other algorithm is read: what does not say ES256 and our key is refused.

const (
	algorithm = "ES256"
	// half is the length of each of the two numbers of an ES256 signature, in bytes.
	half = 32
	// maxToken bounds what is looked at, in bytes.
	maxToken = 16 * 1024
)

var encoding = base64.RawURLEncoding

type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid,omitempty"`
}

// sign returns claims as a signed token.
func sign(key *ecdsa.PrivateKey, keyID string, claims any) (string, error) {
	head, err := json.Marshal(header{algorithm, keyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := encoding.EncodeToString(head) + "." + encoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	signature := make([]byte, 2*half)
	r.FillBytes(signature[:half])
	s.FillBytes(signature[half:])
	return text + "." + encoding.EncodeToString(signature), nil
}

// verify checks a token's form and signature and decodes its claims.
func verify(key *ecdsa.PublicKey, token string, claims any) error {
	if len(token) > maxToken {
		return errors.New("token is too long")
	}
	text, mark, ok := cutLast(token)
	if !ok {
		return errors.New("token is not a JSON Web Token")
	}
	headText, bodyText, ok := strings.Cut(text, ".")
	if !ok || strings.Contains(bodyText, ".") {
		return errors.New("token is not a JSON Web Token")
	}
	var head header
	if err := decode(headText, &head); err != nil {
		return fmt.Errorf("token header: %w", err)
	}
	if head.Algorithm != algorithm {
		return fmt.Errorf("token is signed with %q, want %s", head.Algorithm, algorithm)
	}
	signature, err := encoding.DecodeString(mark)
	if err != nil || len(signature) != 2*half {
		return errors.New("token signature is malformed")
	}
	sum := sha256.Sum256([]byte(text))
	r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
	if !ecdsa.Verify(key, sum[:], r, s) {
		return errors.New("token signature does not match")
	}
	if err := decode(bodyText, claims); err != nil {
		return fmt.Errorf("token claims: %w", err)
	}
	return nil
}

func cutLast(token string) (before, after string, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return "", "", false
	}
	return token[:i], token[i+1:], true
}

func decode(text string, into any) error {
	data, err := encoding.DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// keyID names a public key as upstream does: the SHA-256 of its PKIX form.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return encoding.EncodeToString(sum[:]), nil
}
