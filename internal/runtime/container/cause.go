package container

// Caused is an error whose cause has a word, of package cause: who hears of it need not read the message.
type Caused struct {
	Cause string
	Err   error
}

func (e *Caused) Error() string { return e.Err.Error() }
func (e *Caused) Unwrap() error { return e.Err }
