// What init.c and the Go code agree on. All fields have eight bytes.

#define LIST_AT 0x20000000UL
#define NO_ENTRY (~0UL)
#define ANYTHING (-1L)
#define GIVE_UP (-1L)
#define EIO_OF_OURS 5
#define EACCES_OF_LINUX 13

// entry is one system call. Errors whose bits are set in may_fail do not end the list. With unless, it is made only if
// that entry's call failed. It must return want, unless that is ANYTHING.
struct entry {
	long nr;
	unsigned long arg[6];
	unsigned long may_fail;
	unsigned long unless;
	long want;
	long result;
};

// list begins what lies at LIST_AT. What is reported is its first two fields.
struct list {
	unsigned long at, error;
	unsigned long entries;
	unsigned long denied, missing;
	long write, exit;
	unsigned long report[6], status[6];
};
